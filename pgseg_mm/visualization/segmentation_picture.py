"""A picture of an image, its segmentation and what it was made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from mmseg.structures import SegDataSample
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .colours import Colours, class_colours, distinct_colours, separate
from .legend import LINE, draw_legend, legend_rows, occurring
from .panels import (
    OPACITY,
    Labels,
    Pixels,
    fit_size,
    paint,
    resize_image,
    resize_labels,
    write_names,
)
from .text import font, width_of

LONGER_SIDE = (448, 640)
"""Bounds of a panel's longer side in pixels."""
SHORTEST_SIDE = 8
"""Pixels that a panel is high and wide at least, whatever the shape of the image."""
WIDE = 2.2
"""Width by height above which panels stand below each other."""
LEGEND_LINES = 12
"""Lines that a legend may have even beside low panels."""
GAP = 12
TITLE_SIZE = 14
TITLE_HEIGHT = 24
"""Height of a line with a title in pixels."""


@dataclass
class ShownImage:
    """An image and all that can be shown of it."""

    image: Pixels
    """(H, W, 3), RGB from 0 to 255."""
    labels: dict[str, Labels]
    """Label maps by their titles, such as ``'prediction'`` and ``'truth'``."""
    groups: Mapping[int, Labels] = field(default_factory=dict)
    """For each grouping stage that is shown (0, 1, ...), the group of each pixel."""
    prototypes: Mapping[int, Labels] = field(default_factory=dict)
    """For each grouping stage that is shown, the nearest prototype of each pixel."""

    def __post_init__(self) -> None:
        self.image = np.asarray(self.image)
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(
                'the image must be an RGB array (H, W, 3) of uint8, got shape '
                f'{self.image.shape} of {self.image.dtype}'
            )
        if 0 in self.image.shape:
            raise ValueError(f'the image has no pixel: its shape is {self.image.shape}')
        self.labels = {title: _as_map(title, values) for title, values in self.labels.items()}
        self.groups = {stage: _as_map('groups', values) for stage, values in self.groups.items()}
        self.prototypes = {
            stage: _as_map('prototypes', values) for stage, values in self.prototypes.items()
        }


def _as_map(title: str, values: ArrayLike) -> Labels:
    labels = np.asarray(values)
    if labels.ndim != 2 or not labels.size or labels.dtype.kind not in 'bui':
        raise ValueError(
            f'{title} must be a map (H, W) of integers, got shape {labels.shape} of {labels.dtype}'
        )
    return labels.astype(np.int64, copy=False)


def draw_segmentation(
    image: NDArray[np.uint8],
    mask: NDArray[np.integer],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]] | None = None,
    groups: Mapping[int, NDArray[np.integer]] | None = None,
    truth: NDArray[np.integer] | None = None,
    prototypes: Mapping[int, NDArray[np.integer]] | None = None,
) -> NDArray[np.uint8]:
    """Draw an image and its segmentation side by side, with the names of the classes.

    The legend has the classes that occur, by falling area. Small images are enlarged, large ones
    shrunk.

    Args:
        image: (H, W, 3), RGB from 0 to 255.
        mask: (H', W') predicted labels; all maps may have another size than the image.
        classes: Class names in label order. Labels outside of them are ignored ones, which stay
            clear.
        palette: Colours of the classes, RGB from 0 to 255; by default colours that are easy to tell
            apart. Where two classes of the picture have nearly one colour, the smaller one gets
            another.
        groups: For each grouping stage to show (0, 1, ...), the group of each pixel.
        truth: True labels.
        prototypes: For each grouping stage to show, the nearest prototype of each pixel.
            A prototype has the colour of the group that it shares most pixels with, one to one.

    Returns:
        (height, width, 3), RGB from 0 to 255.

    Raises:
        ValueError: If an array has another shape than expected, or the palette is too short.
    """
    labels = {'prediction': mask} if truth is None else {'prediction': mask, 'truth': truth}
    shown = ShownImage(image, labels, groups or {}, prototypes or {})
    return draw_picture(shown, classes, palette)


def groups_of(sample: SegDataSample) -> tuple[dict[int, Labels], dict[int, Labels]]:
    """Groups and prototypes of a sample, as :func:`draw_segmentation` takes them.

    Args:
        sample: A sample that PGSeg has predicted with ``test_cfg['groups']=True``.

    Returns:
        Maps of the groups and of the prototypes by stage, in order; both empty for other samples.
    """
    found: dict[str, dict[int, Labels]] = {'stage': {}, 'prototypes': {}}
    for name, indices in sorted(sample.get('pred_groups', {}).items()):
        kind, _, stage = name.rpartition('_')
        found[kind][int(stage)] = to_map(indices)
    return found['stage'], found['prototypes']


def to_map(data: Tensor | NDArray) -> NDArray:
    """Turn the (1, H, W) data of a sample, on any device, into an array (H, W)."""
    return np.asarray(data.cpu() if isinstance(data, Tensor) else data)[0]


def draw_picture(
    shown: ShownImage,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]] | None = None,
    opacity: float = OPACITY,
    with_names: bool = True,
) -> Pixels:
    """Draw panels and legend of one image; see :func:`draw_segmentation`.

    Args:
        shown: What to draw, with at least one label map.
        classes: Class names in label order.
        palette: Colours of the classes.
        opacity: How much of the image the colours hide, from 0 to 1.
        with_names: Whether to write names into the segments.
    """
    size = fit_size(shown.image.shape[:2], LONGER_SIDE, SHORTEST_SIDE)
    shares = occurring(list(shown.labels.values()), len(classes))
    names = {label: classes[label] for label in shares if label < len(classes)}
    colours = separate(class_colours(classes, palette), list(names))
    rows = [
        label_panels(shown, size, colours, names if with_names else {}, opacity),
        group_panels(shown, size, opacity),
    ]
    places, extent = _arrange([list(row) for row in rows], size)
    x, height, free_width = _legend_place(places, extent, [len(row) for row in rows], size)
    legend = draw_legend(
        legend_rows(shares, classes, colours), list(shown.labels), height + LINE, free_width
    )
    top = GAP + TITLE_HEIGHT - LINE  # the first line of the legend is beside the titles
    width, height = max(extent[0], x + legend.shape[1]), max(extent[1], top + legend.shape[0])
    picture = Image.new('RGB', (width + GAP, height + GAP), 'white')
    for title, pixels in {**rows[0], **rows[1]}.items():
        place_panel(picture, places[title], pixels, title)
    picture.paste(Image.fromarray(legend), (x, top))
    return np.asarray(picture)


def label_panels(
    shown: ShownImage,
    size: tuple[int, int],
    colours: Colours,
    names: Mapping[int, str],
    opacity: float = OPACITY,
) -> dict[str, Pixels]:
    """Draw the image and its label maps.

    Args:
        shown: What to draw.
        size: (height, width) of the panels.
        colours: Colours of all classes.
        names: Names to write on the maps by their labels, the most important first.
        opacity: How much of the image the colours hide.

    Returns:
        Panels by their titles.
    """
    image = resize_image(shown.image, size)
    panels = {'input': image}
    for title, labels in shown.labels.items():
        labels = resize_labels(labels, size)
        panels[title] = write_names(paint(image, labels, colours, opacity), labels, names)
    return panels


def group_panels(
    shown: ShownImage, size: tuple[int, int], opacity: float = OPACITY
) -> dict[str, Pixels]:
    """Draw groups and prototypes, (height, width) in size, by their titles."""
    image = resize_image(shown.image, size)
    maps = {}
    for stage, groups in shown.groups.items():
        maps[f'groups, stage {stage + 1}'] = groups, distinct_colours(int(groups.max()) + 1)
    for stage, prototypes in shown.prototypes.items():
        colours = _prototype_colours(prototypes, shown.groups.get(stage))
        maps[f'prototypes, stage {stage + 1}'] = prototypes, colours
    return {
        title: paint(image, resize_labels(indices, size), colours, opacity)
        for title, (indices, colours) in maps.items()
    }


def _prototype_colours(prototypes: Labels, groups: Labels | None) -> Colours:
    """Colours of prototypes: those of the groups that they overlap with, one to one."""
    if groups is None:
        return distinct_colours(int(prototypes.max()) + 1)
    number = max(int(groups.max()), int(prototypes.max())) + 1
    groups = resize_labels(groups, (prototypes.shape[0], prototypes.shape[1]))
    pairs = np.bincount((prototypes * number + groups).ravel(), minlength=number * number)
    _, matched = linear_sum_assignment(pairs.reshape(number, number), maximize=True)
    return distinct_colours(number)[matched]


def place_panel(picture: Image.Image, place: tuple[int, int], pixels: Pixels, title: str) -> None:
    """Paste a panel at (x, y), with its title above it."""
    picture.paste(Image.fromarray(pixels), place)
    middle = (place[0], place[1] - TITLE_HEIGHT // 2)
    ImageDraw.Draw(picture).text(middle, title, fill='black', font=font(TITLE_SIZE), anchor='lm')


def _arrange(
    rows: Sequence[Sequence[str]], size: tuple[int, int]
) -> tuple[dict[str, tuple[int, int]], tuple[int, int]]:
    """Places (x, y) of the panels, and width and height of them all.

    The rows stand below each other; those of wide images are columns, side by side.
    """
    titles = [title for row in rows for title in row]
    width = max(size[1], *(width_of(title, TITLE_SIZE) for title in titles))
    step = (width + GAP, size[0] + GAP + TITLE_HEIGHT)
    places = {}
    for i, row in enumerate(rows):
        for j, title in enumerate(row):
            column, line = (i, j) if _is_wide(size) else (j, i)
            places[title] = (GAP + column * step[0], GAP + TITLE_HEIGHT + line * step[1])
    right = max(x for x, _ in places.values()) + width
    bottom = max(y for _, y in places.values()) + size[0]
    return places, (right, bottom)


def _is_wide(size: tuple[int, int]) -> bool:
    return size[1] > WIDE * size[0]


def _legend_place(
    places: Mapping[str, tuple[int, int]],
    extent: tuple[int, int],
    lengths: Sequence[int],
    size: tuple[int, int],
) -> tuple[int, int, int]:
    """Left edge, height and free width of the legend.

    It stands on the right: beside all panels, or beside the first row where that is the shorter.
    """
    if _is_wide(size) or lengths[0] >= lengths[1]:
        return extent[0] + GAP, max(extent[1] - GAP - TITLE_HEIGHT, LEGEND_LINES * LINE), 0
    first, second = list(places.values())[:2]
    x = first[0] + lengths[0] * (second[0] - first[0])
    return x, size[0], extent[0] - x
