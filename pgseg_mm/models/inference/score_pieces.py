"""Dense class scores that are made a piece at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

CPU_ELEMENTS, ELEMENTS = 1 << 20, 1 << 24
"""Scores that are made at a time: what caches of processors hold, and what keeps a GPU busy."""


class Best(NamedTuple):
    """The best column of each pixel."""

    values: Tensor
    """(H, W) its score."""
    columns: Tensor
    """(H, W) which one, int64; the first of several."""


class ScorePieces(NamedTuple):
    """Scores of an image at one size, of which never more than a piece is held."""

    make: Callable[[Tensor | None, slice], Tensor]
    """From (k,) columns, on the CPU, or all of them, and rows of pixels, to scores (k, r, W)."""
    num_columns: int
    """Columns K: classes or words."""
    size: tuple[int, int]
    """(H, W) in pixels."""
    device: torch.device
    """Where scores are made."""
    by_columns: bool = False
    """Whether pieces have all rows, and few columns, instead of all columns and few rows."""

    def bands(
        self, columns: Tensor | None = None
    ) -> Iterator[tuple[slice, Iterator[tuple[Tensor, Tensor]]]]:
        """Go through all scores, band by band.

        Args:
            columns: Which columns, in ascending order; all by default.

        Returns:
            For each band its rows, and for these its pieces: (k,) columns and scores (k, r, W).
        """
        height, width = self.size
        count = self.num_columns if columns is None else len(columns)
        elements = CPU_ELEMENTS if self.device.type == 'cpu' else ELEMENTS
        step = height if self.by_columns else min(max(elements // (count * width), 1), height)
        for start in range(0, height, step):
            rows = slice(start, min(start + step, height))
            yield rows, self._band(columns, rows, max(elements // (step * width), 1))

    def _band(
        self, columns: Tensor | None, rows: slice, step: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        every = torch.arange(self.num_columns) if columns is None else columns
        if len(every) <= step:
            yield every, self.make(columns, rows)
            return
        for part in every.split(step):
            yield part, self.make(part, rows)

    def best(self) -> Best:
        """The best column of each pixel."""

        def bands() -> Iterator[tuple[slice, Best]]:
            for rows, pieces in self.bands():
                best = None
                for columns, scores in pieces:
                    best = better_of(best, columns, scores)
                assert best is not None
                yield rows, best

        return Best(*join_bands(self.size[0], bands()))

    def logits(self) -> Tensor:
        """All scores, (K, H, W)."""
        out = None
        for rows, pieces in self.bands():
            for columns, scores in pieces:
                if out is None:
                    out = scores.new_empty(self.num_columns, *self.size)
                out[columns.to(out.device), rows] = scores
        assert out is not None
        return out


def better_of(best: Best | None, columns: Tensor, scores: Tensor) -> Best:
    """The best of columns before and of a piece; on a tie that of before.

    Args:
        best: Best of the columns before, if there were any.
        columns: (k,) columns of the piece, on the CPU.
        scores: Their scores (k, r, W).
    """
    values, index = scores.max(dim=0)
    index = columns.to(index.device)[index]
    if best is None:
        return Best(values, index)
    better = values > best.values
    return Best(torch.where(better, values, best.values), torch.where(better, index, best.columns))


def join_bands(height: int, bands: Iterable[tuple[slice, Sequence[Tensor]]]) -> list[Tensor]:
    """Bands of an image one below the other.

    Args:
        height: Rows H of the image.
        bands: For each band its rows and its maps (r, W), which are let go of at once.

    Returns:
        The maps (H, W).
    """
    joined: list[Tensor] = []
    for rows, maps in bands:
        joined = joined or [part.new_empty(height, part.shape[1]) for part in maps]
        for whole, part in zip(joined, maps, strict=True):
            whole[rows] = part
    return joined


def mean_of_winners(best: Best, num_columns: int) -> Tensor:
    """Mean score of each column over the pixels that it wins, (K,); 0 where it wins none."""
    labels, values = best.columns.flatten(), best.values.flatten()
    # sums over millions of pixels: float32 would lose the last ones
    exact = values.dtype if values.device.type == 'mps' else torch.float64
    total = values.new_zeros(num_columns, dtype=exact).index_add_(0, labels, values.to(exact))
    won = torch.bincount(labels, minlength=num_columns)
    return (total / won.clamp(min=1)).to(values.dtype)
