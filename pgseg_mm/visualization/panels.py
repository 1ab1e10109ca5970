"""The panels of a picture: an image, segments over it, and their names."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from .colours import Colours
from .text import font, shorten, width_of

OPACITY = 0.65
"""How much of the image a colour hides."""
OUTLINE = 0.85
"""How white the outlines of segments are."""
NAME_SIZE = 14
MIN_RADIUS = 3.0
"""Pixels that a segment's inscribed circle needs for its name to be written."""
REPEAT_RADIUS = 25.0
"""The same for segments that are not the largest of their label."""

Pixels = NDArray[np.uint8]
"""(height, width, 3), RGB from 0 to 255."""
Labels = NDArray[np.integer]
"""(height, width)."""


def fit_size(size: tuple[int, int], longest: tuple[int, int], shortest: int) -> tuple[int, int]:
    """Size of a panel for an image: its longer side within ``longest``, no side too short.

    Args:
        size: (height, width) of the image.
        longest: Bounds of the longer side in pixels.
        shortest: Length that a side has at least, even if that distorts the image.
    """
    factor = np.clip(max(size), *longest) / max(size)
    height, width = (max(round(side * factor), shortest) for side in size)
    return height, width


def resize_image(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize an image smoothly to (height, width)."""
    smaller = image.shape[0] > size[0]
    kind = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    resized = cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=kind)
    return np.asarray(resized, dtype=np.uint8)


def resize_labels(labels: Labels, size: tuple[int, int]) -> Labels:
    """Resize labels to (height, width) without mixing them."""
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(int)
        for old, new in zip(labels.shape, size, strict=True)
    )
    return labels[np.ix_(rows, columns)]


def outlines(labels: Labels) -> NDArray[np.bool_]:
    """Pixels whose neighbour on the right or below has another label."""
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def paint(image: Pixels, labels: Labels, colours: Colours, opacity: float = OPACITY) -> Pixels:
    """Lay the outlined colours of labels over the image in grey; labels without one stay clear.

    Args:
        image: (H, W, 3).
        labels: (H, W) indices of colours.
        colours: (K, 3).
        opacity: How much of the image the colours hide, from 0 to 1.
    """
    known = (labels >= 0) & (labels < len(colours))
    painted = np.repeat(image.mean(axis=-1, dtype=np.float32, keepdims=True), 3, axis=-1)
    painted[known] = (1 - opacity) * painted[known] + opacity * colours[labels[known]]
    edges = outlines(np.where(known, labels, -1))
    painted[edges] = (1 - OUTLINE) * painted[edges] + 255 * OUTLINE
    return painted.astype(np.uint8)


def write_names(pixels: Pixels, labels: Labels, names: Mapping[int, str]) -> Pixels:
    """Write names in the middle of the largest segment of each label, or beside a small one.

    Other large segments of a label get its name, too. Names that would cover each other are left
    out, those of the later labels first.

    Args:
        pixels: What to write on.
        labels: (H, W) labels.
        names: Names of labels, the most important first.
    """
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    height, width = labels.shape
    written: list[tuple[int, int, int, int]] = []
    for label, radius, row, column in _middles(labels, names):
        text = shorten(names[label], NAME_SIZE, width - 4)
        if not text or height < NAME_SIZE + 4:
            continue
        size = width_of(text, NAME_SIZE) + 4, NAME_SIZE + 4
        for x, y in _places(column, row, radius, size):
            left = int(np.clip(x - size[0] / 2, 0, width - size[0]))
            top = int(np.clip(y - size[1] / 2, 0, height - size[1]))
            box = (left, top, left + size[0], top + size[1])
            if not any(_overlap(box, other) for other in written):
                written.append(box)
                draw.text(
                    (left + size[0] / 2, top + size[1] / 2),
                    text,
                    fill='white',
                    font=font(NAME_SIZE),
                    anchor='mm',
                    stroke_width=2,
                    stroke_fill='black',
                )
                break
    return np.asarray(picture)


class _Middle(NamedTuple):
    """Middle of the largest circle within a segment."""

    label: int
    radius: float
    row: int
    column: int


def _middles(labels: Labels, wanted: Iterable[int]) -> list[_Middle]:
    """Middles of segments to name: the largest of each label in order, then other large ones."""
    rank = {label: number for number, label in enumerate(wanted)}
    inside = (~np.pad(outlines(labels), 1, constant_values=True)).astype(np.uint8)
    radii = np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, 3))[1:-1, 1:-1]
    # outlines keep segments of different labels apart
    number, segments = cv2.connectedComponents(inside[1:-1, 1:-1], connectivity=4)
    places = ndimage.maximum_position(radii, segments, range(1, number))
    found = [_Middle(int(labels[place]), float(radii[place]), *map(int, place)) for place in places]
    found = [each for each in found if each.radius >= MIN_RADIUS and each.label in rank]
    found.sort(key=lambda each: -each.radius)
    largest: dict[int, _Middle] = {}
    others = []
    for each in found:
        if largest.setdefault(each.label, each) is not each and each.radius >= REPEAT_RADIUS:
            others.append(each)
    return [*sorted(largest.values(), key=lambda each: rank[each.label]), *others]


def _places(x: float, y: float, radius: float, size: tuple[int, int]) -> list[tuple[float, float]]:
    """Middles that a text may have: in its segment if that is large enough, else beside it."""
    beside_y = min(radius, size[1]) + size[1] / 2
    beside_x = min(radius, size[1]) + size[0] / 2
    beside = [(x, y - beside_y), (x, y + beside_y), (x + beside_x, y), (x - beside_x, y)]
    return [(x, y), *beside] if radius > size[1] / 2 else beside


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return not (
        one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    )
