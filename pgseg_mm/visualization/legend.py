"""Legend: the classes that occur, and the share of the pixels that each has."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .colours import Colours
from .panels import Labels, Pixels
from .text import font, shorten, width_of

TEXT_SIZE = 13
LINE = 20
"""Height of a line in pixels."""
SWATCH = 14
NAME_WIDTH = 170
"""Pixels that a name has at most."""
TEXT_GAP = 8
COLUMN_GAP = 24
NO_CLASS = 'no class'


class LegendRow(NamedTuple):
    """A class of the legend."""

    name: str
    colour: tuple[int, int, int] | None
    """RGB; None for pixels without a class."""
    shares: tuple[float, ...]
    """Share of the pixels of each label map."""


def occurring(maps: Sequence[Labels], num_classes: int) -> dict[int, tuple[float, ...]]:
    """Shares of the pixels that each label has in each map, the largest first.

    Args:
        maps: Label maps; whatever is outside of the classes counts as label ``num_classes``.
        num_classes: Number of classes.
    """
    counts = np.stack([_shares(labels, num_classes) for labels in maps])
    largest = counts.max(axis=0)
    order = np.argsort(-largest, kind='stable')
    order = order[largest[order] > 0]
    return {int(label): tuple(counts[:, label].tolist()) for label in order}


def _shares(labels: Labels, num_classes: int) -> NDArray[np.float64]:
    """Shares of the classes and, behind them, of all other labels."""
    values = labels.ravel()
    if values.min() < 0:
        values = values[values >= 0]
    counts = np.bincount(values, minlength=num_classes)[:num_classes]
    return np.append(counts, labels.size - counts.sum()) / labels.size


def legend_rows(
    shares: Mapping[int, tuple[float, ...]], classes: Sequence[str], colours: Colours
) -> list[LegendRow]:
    """Rows of the legend in the order of ``shares``, that of ignored pixels last."""
    rows = [
        LegendRow(classes[label], tuple(colours[label].tolist()), values)
        for label, values in shares.items()
        if label < len(classes)
    ]
    if len(classes) in shares:
        rows.append(LegendRow(NO_CLASS, None, shares[len(classes)]))
    return rows


def draw_legend(
    rows: Sequence[LegendRow],
    headings: Sequence[str],
    height: int,
    free_width: int,
    min_columns: int = 2,
) -> Pixels:
    """Draw the legend in as many columns as it needs and may have.

    Args:
        rows: Its rows; those without room are summed up in a last line.
        headings: Name of each share; nothing is written for a single one.
        height: Height in pixels.
        free_width: Width in pixels that is there anyway.
        min_columns: Columns that it may have even if they need more width.
    """
    headings = headings if len(headings) > 1 else ['']
    lines = max(height // LINE - 1, 2)
    share_width = max(width_of(text, TEXT_SIZE) for text in (*headings, '100.0 %')) + TEXT_GAP
    texts = [*(row.name for row in rows), _rest(len(rows))]
    name_width = min(max(width_of(text, TEXT_SIZE) for text in texts), NAME_WIDTH)
    column = SWATCH + TEXT_GAP + name_width + share_width * len(headings)
    allowed = max((free_width + COLUMN_GAP) // (column + COLUMN_GAP), min_columns)
    rows = _cut(rows, lines * allowed)
    columns = -(-len(rows) // lines)
    picture = Image.new('RGB', (columns * (column + COLUMN_GAP) - COLUMN_GAP, height), 'white')
    draw = ImageDraw.Draw(picture)
    for number, row in enumerate(rows):
        left = number // lines * (column + COLUMN_GAP)
        if number % lines == 0:
            _write_shares(draw, headings, left + column, LINE // 2, share_width)
        middle = (number % lines + 1) * LINE + LINE // 2
        _draw_row(draw, row, left, middle, name_width)
        shares = [_percent(share) for share in row.shares]
        _write_shares(draw, shares, left + column, middle, share_width)
    return np.asarray(picture)


def _cut(rows: Sequence[LegendRow], room: int) -> list[LegendRow]:
    """As many rows as there is room for, the last of which sums up the rest."""
    if len(rows) <= room:
        return list(rows)
    rest = rows[room - 1 :]
    shares = tuple(sum(values) for values in zip(*(row.shares for row in rest), strict=True))
    return [*rows[: room - 1], LegendRow(_rest(len(rest)), None, shares)]


def _rest(number: int) -> str:
    return f'and {number} more'


def _draw_row(
    draw: ImageDraw.ImageDraw, row: LegendRow, left: int, middle: int, width: int
) -> None:
    if row.colour is not None:
        top = middle - SWATCH // 2
        box = (left, top, left + SWATCH - 1, top + SWATCH - 1)
        draw.rectangle(box, fill=row.colour, outline='grey')
    name = shorten(row.name, TEXT_SIZE, width)
    place = (left + SWATCH + TEXT_GAP, middle)
    draw.text(place, name, fill='black', font=font(TEXT_SIZE), anchor='lm')


def _write_shares(
    draw: ImageDraw.ImageDraw, texts: Sequence[str], right: int, middle: int, width: int
) -> None:
    for number, text in enumerate(reversed(texts)):
        place = (right - number * width, middle)
        draw.text(place, text, fill='dimgrey', font=font(TEXT_SIZE), anchor='rm')


def _percent(share: float) -> str:
    if share == 0:
        return '–'
    return '< 0.1 %' if share < 0.0005 else f'{100 * share:.1f} %'
