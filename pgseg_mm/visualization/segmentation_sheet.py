"""A sheet of images with their groups, their segmentation and the truth."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmseg.datasets import BaseSegDataset
from numpy.typing import NDArray

from pgseg_mm.models import PGSeg

DPI = 100
LEGEND_WIDTH = 0.65
"""Width of a legend, as a share of a panel's."""
LINE_HEIGHT = 0.18
"""Inches for a name in a legend."""
OPACITY = 0.7
"""How much of the image a class's colour hides."""


class SegmentedImage(NamedTuple):
    """An image and what the model makes of it."""

    image: NDArray[np.float32]
    """(H, W, 3), RGB from 0 to 1, as it goes into the model."""
    groups: dict[int, NDArray[np.int64]]
    """For each stage that is shown (0, 1, ...), the group of each pixel, (H, W)."""
    prediction: NDArray[np.int64]
    """(H', W') labels at the size of the original image."""
    truth: NDArray[np.int64]
    """(H', W') labels; those beyond the classes are ignored ones."""


def qualitative_colours(number: int) -> NDArray[np.float64]:
    """Colours that are easy to tell apart, repeated after 60.

    Returns:
        (number, 3), RGB from 0 to 1.
    """
    strong_first = [*range(0, 20, 2), *range(1, 20, 2)]
    colours = np.concatenate(
        [matplotlib.colormaps[name](strong_first) for name in ('tab20', 'tab20b', 'tab20c')]
    )
    return colours[np.arange(number) % len(colours), :3]


@torch.no_grad()
def segment_image(model: PGSeg, dataset: BaseSegDataset, index: int) -> SegmentedImage:
    """Group and segment an image of a data set.

    The groups are those of the whole image, also where the model predicts by sliding windows.

    Args:
        model: A model that knows its vocabulary.
        dataset: Data set whose pipeline loads label maps and ends with ``PackSegInputs``.
        index: Index of the image.
    """
    item = dataset[index]
    training = model.training
    model.eval()
    batch = model.data_preprocessor(
        {'inputs': [item['inputs']], 'data_samples': [item['data_samples']]}
    )
    inputs = batch['inputs']
    features = model.extract_feat(inputs)
    last = len(features.assignments) - 1
    groups = {
        stage: model.decode_head.assign_pixels(features, tuple(inputs.shape[-2:]), stage)[0]
        for stage in sorted({0, last})
    }
    sample = model.predict(inputs, batch['data_samples'])[0]
    model.train(training)
    normalise = model.data_preprocessor
    image = (inputs[0] * normalise.std + normalise.mean).div(255).clamp(0, 1)
    return SegmentedImage(
        image.permute(1, 2, 0).cpu().numpy(),
        {stage: group.cpu().numpy() for stage, group in groups.items()},
        sample.pred_sem_seg.data[0].cpu().numpy(),
        sample.gt_sem_seg.data[0].cpu().numpy(),
    )


def draw_segmentation_sheet(
    model: PGSeg,
    dataset: BaseSegDataset,
    indices: Iterable[int],
    out_file: str | Path | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    credit: str | None = None,
    panel: float = 2.0,
) -> Figure:
    """Draw one row for each image: input, groups of the first and last stage, prediction, truth.

    Beside prediction and truth stand the names of the classes that occur, the largest first.

    Args:
        model: A model that knows its vocabulary, which has the labels of the data set.
        dataset: Data set whose pipeline loads label maps and ends with ``PackSegInputs``.
        indices: Indices of the images.
        out_file: PNG file to write; its folder is made if need be.
        palette: Colours of the classes, RGB from 0 to 255; by default a qualitative one.
        credit: Line at the foot of the sheet, such as the attribution that the images ask for.
        panel: Width of a picture in inches; the file has 100 pixels an inch.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no image to draw, or the palette is too short.
    """
    rows = [segment_image(model, dataset, index) for index in indices]
    if not rows:
        raise ValueError('the sheet needs at least one image, got no indices')
    names = list(dataset.metainfo['classes'])
    if palette is None:
        colours = qualitative_colours(len(names))
    elif len(palette) < len(names):
        raise ValueError(f'{len(names)} classes need as many colours, got {len(palette)}')
    else:
        colours = np.asarray(palette, dtype=float) / 255
    figure, axes = _layout(rows, panel, credit)
    for row, row_axes in zip(rows, axes, strict=True):
        _draw_row(row, row_axes, names, colours)
    titles = [f'groups of stage {stage + 1}' for stage in rows[0].groups]
    for title, axis in zip(['input', *titles, 'prediction', '', 'truth', ''], axes[0], strict=True):
        axis.set_title(title, fontsize=11)
    if out_file is not None:
        Path(out_file).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out_file, format='png')
    return figure


def _layout(
    rows: Sequence[SegmentedImage], panel: float, credit: str | None
) -> tuple[Figure, NDArray]:
    """Make the figure and an axis for each panel and legend."""
    pictures = 3 + len(rows[0].groups)
    widths = [1.0] * (pictures - 1) + [LEGEND_WIDTH, 1.0, LEGEND_WIDTH]
    gap, head, foot = 0.08, 0.35, 0.15 if credit is None else 0.4  # inches
    width = panel * sum(widths) + gap * (len(widths) + 1)
    heights = [panel * row.image.shape[0] / row.image.shape[1] for row in rows]
    height = sum(heights) + gap * (len(rows) - 1) + head + foot
    figure = Figure(figsize=(width, height), dpi=DPI)
    grid = figure.add_gridspec(
        len(rows),
        len(widths),
        width_ratios=widths,
        height_ratios=heights,
        left=gap / width,
        right=1 - gap / width,
        top=1 - head / height,
        bottom=foot / height,
        wspace=gap * len(widths) / (panel * sum(widths)),
        hspace=gap * len(rows) / sum(heights),
    )
    axes = grid.subplots(squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    if credit is not None:
        figure.text(gap / width, 0.12 / height, credit, fontsize=8, va='bottom')
    return figure, axes


def _draw_row(
    row: SegmentedImage, axes: Sequence[Axes], names: Sequence[str], colours: NDArray
) -> None:
    remaining = iter(axes)
    next(remaining).imshow(row.image, interpolation='bicubic')
    for groups in row.groups.values():
        next(remaining).imshow(
            qualitative_colours(groups.max() + 1)[groups], interpolation='nearest'
        )
    for labels in (row.prediction, row.truth):
        _draw_labels(next(remaining), row.image, labels, colours[: len(names)])
        _draw_legend(next(remaining), labels, names, colours)


def _draw_labels(axis: Axes, image: NDArray, labels: NDArray, colours: NDArray) -> None:
    """Lay outlined colours of the classes over the image in grey; ignored labels stay clear."""
    known = labels < len(colours)
    overlay = np.zeros((*labels.shape, 4))
    overlay[known, :3] = colours[labels[known]]
    overlay[known, 3] = OPACITY
    extent = (0, image.shape[1], image.shape[0], 0)
    grey = image.mean(axis=-1)
    axis.imshow(grey, cmap='gray', vmin=0, vmax=1, interpolation='bicubic', extent=extent)
    axis.imshow(overlay, interpolation='nearest', extent=extent)
    occurring = np.unique(labels)
    for label in occurring if len(occurring) > 1 else ():
        axis.contour(
            (labels == label).astype(float),
            levels=[0.5],
            colors='white',
            linewidths=0.8,
            origin='lower',  # the axis points down already
            extent=(0, image.shape[1], 0, image.shape[0]),
        )


def _draw_legend(axis: Axes, labels: NDArray, names: Sequence[str], colours: NDArray) -> None:
    """Name the classes that occur, as many as there is room for, by falling area."""
    occurring, areas = np.unique(labels[labels < len(names)], return_counts=True)
    ordered = occurring[np.argsort(-areas, kind='stable')]
    room = max(int(axis.bbox.height / DPI / LINE_HEIGHT), 2)
    shown = ordered if len(ordered) <= room else ordered[: room - 1]
    handles = [Patch(color=colours[label], label=fill(names[label], 16)) for label in shown]
    if len(shown) < len(ordered):
        rest = f'and {len(ordered) - len(shown)} more'
        handles.append(Patch(color='none', label=rest))
    axis.legend(
        handles=handles,
        loc='upper left',
        frameon=False,
        fontsize=9,
        borderaxespad=0,
        borderpad=0.1,
        handlelength=1,
        handleheight=1,
        handletextpad=0.5,
        labelspacing=0.25,
    )
