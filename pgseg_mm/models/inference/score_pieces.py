"""Dense class scores that are made a few classes at a time."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

PIECE_ELEMENTS = 1 << 24
"""Scores of single pixels that are made at a time."""


class Best(NamedTuple):
    """The best column of each pixel."""

    values: Tensor
    """(H, W) its score."""
    columns: Tensor
    """(H, W) which one, int64; the first of several."""


class ScorePieces(NamedTuple):
    """Scores of an image at one size, of which never more than a piece is held."""

    make: Callable[[Tensor], Tensor]
    """From (k,) columns, on the CPU, to their scores (k, H, W)."""
    num_columns: int
    """Columns K: classes or words."""
    size: tuple[int, int]
    """(H, W) in pixels."""

    def each(self, columns: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Columns and their scores, one piece after another.

        Args:
            columns: Which ones; all by default.
        """
        if columns is None:
            columns = torch.arange(self.num_columns)
        for part in columns.split(max(PIECE_ELEMENTS // (self.size[0] * self.size[1]), 1)):
            yield part, self.make(part)

    def best(self) -> Best:
        """The best column of each pixel."""
        best = None
        for columns, scores in self.each():
            best = better_of(best, columns, scores)
        assert best is not None
        return best

    def logits(self) -> Tensor:
        """All scores, (K, H, W)."""
        out = None
        for columns, scores in self.each():
            if out is None:
                out = scores.new_empty(self.num_columns, *self.size)
            out[columns.to(scores.device)] = scores
        assert out is not None
        return out


def better_of(best: Best | None, columns: Tensor, scores: Tensor) -> Best:
    """The best of columns before and of a piece; on a tie that of before.

    Args:
        best: Best of the columns before, if there were any.
        columns: (k,) columns of the piece.
        scores: Their scores (k, H, W).
    """
    values, index = scores.max(dim=0)
    index = columns.to(index.device)[index]
    if best is None:
        return Best(values, index)
    better = values > best.values
    return Best(torch.where(better, values, best.values), torch.where(better, index, best.columns))


def mean_of_winners(best: Best, num_columns: int) -> Tensor:
    """Mean score of each column over the pixels that it wins, (K,); 0 where it wins none."""
    labels, values = best.columns.flatten(), best.values.flatten()
    sums = torch.stack([values, torch.ones_like(values)])
    total, won = sums.new_zeros(2, num_columns).index_add_(1, labels, sums)
    return total / won.clamp(min=1)
