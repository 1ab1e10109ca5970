"""What is lost by grouping, naming and recognition, class by class, and what is confused."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

MAX_BARS = 40
"""Classes that get a bar."""
ROW_INCHES = 0.24
WIDTH_INCHES = 7.5
BARS = ((0.85, '#c6dbef'), (0.6, '#6baed6'), (0.35, '#08519c'))
"""Height and colour of the bar of each way: what comes later is thinner and lies above."""


def draw_diagnosis(
    classes: Sequence[str],
    ious: Mapping[str, Sequence[float]],
    confused: Sequence[str],
    shares: NDArray[np.floating],
    out_file: str | Path | None = None,
) -> Figure:
    """Draw bars of class IoUs, and a matrix of confusions.

    The bars of a class lie upon each other, so that what is seen of each is what the next way
    loses; they become thinner, so that none is hidden. Of more than 40 classes those are drawn that
    lose most from the first way to the last.

    Args:
        classes: Names of the K classes.
        ious: IoU in percent of each class, by up to three ways, the best one first. Classes that
            are NaN by any way are left out.
        confused: Names of R classes.
        shares: (R, R), part of the pixels of each (row) that are taken for each (column), from 0
            to 1.
        out_file: PNG file to write; its folder is made if need be.

    Returns:
        The figure.

    Raises:
        ValueError: If there are more ways than three or none, or sizes do not fit.
    """
    values = np.array([list(ious[way]) for way in ious], dtype=float)
    if not 1 <= len(ious) <= len(BARS) or values.shape[1:] != (len(classes),):
        raise ValueError(
            f'from 1 to {len(BARS)} ways with an IoU for each of the {len(classes)} classes are '
            f'drawn, got an array {values.shape}'
        )
    if shares.shape != (len(confused), len(confused)):
        raise ValueError(
            f'{len(confused)} classes need as many rows and columns of shares, got {shares.shape}'
        )
    shown = _most_lost(values)
    heights = [max(len(shown), 4) * ROW_INCHES + 1.2, max(len(confused), 4) * ROW_INCHES + 2]
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights)), layout='constrained')
    bars, matrix = figure.subplots(2, height_ratios=heights)
    _draw_bars(bars, [classes[i] for i in shown], dict(zip(ious, values[:, shown], strict=True)))
    if len(shown) < len(classes):
        bars.set_title(
            f'{len(shown)} of {len(classes)} classes, those that lose most', fontsize=9, loc='right'
        )
    _draw_matrix(matrix, confused, shares)
    if out_file is not None:
        Path(out_file).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out_file, format='png', dpi=100)
    return figure


def _most_lost(values: NDArray[np.floating]) -> NDArray[np.intp]:
    """Classes to draw: all that occur, or those of the largest loss, by their first IoU."""
    occurring = np.flatnonzero(~np.isnan(values).any(axis=0))
    lost = values[0, occurring] - values[-1, occurring]
    kept = occurring[np.argsort(-lost, kind='stable')[:MAX_BARS]]
    return kept[np.argsort(-values[-1, kept], kind='stable')]


def _draw_bars(axis: Axes, names: Sequence[str], ious: Mapping[str, NDArray[np.floating]]) -> None:
    places = np.arange(len(names))
    for (way, values), (height, colour) in zip(ious.items(), BARS, strict=False):
        axis.barh(places, values, height=height, color=colour, label=way)
    axis.set_yticks(places, names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_xlabel('IoU in %')
    axis.grid(axis='x', alpha=0.3)
    axis.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=len(BARS), fontsize=8)


def _draw_matrix(axis: Axes, names: Sequence[str], shares: NDArray[np.floating]) -> None:
    axis.imshow(100 * shares, cmap='Blues', vmin=0, vmax=100, aspect='auto')
    places = np.arange(len(names))
    axis.set_xticks(places, names, rotation=90, fontsize=8)
    axis.set_yticks(places, names, fontsize=8)
    axis.set_xlabel('taken for')
    axis.set_ylabel('is')
    for row, column in zip(*np.nonzero(shares >= 0.05), strict=True):
        share = shares[row, column]
        axis.text(
            column,
            row,
            f'{100 * share:.0f}',
            ha='center',
            va='center',
            fontsize=7,
            color='white' if share > 0.5 else 'black',
        )
