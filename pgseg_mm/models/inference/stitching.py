from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .bilinear import Taps, bilinear_taps
from .image_geometry import nearest_pixels
from .score_pieces import ScorePieces
from .sliding_window import Window

SCORE_ELEMENTS = 1 << 24
"""Class scores of single pixels that are held at a time."""
MIXED = -1
"""Label of pixels whose neighbours differ."""
FLIPPED_AXES = {'horizontal': (-1,), 'vertical': (-2,), 'diagonal': (-2, -1)}
"""Axes of maps (..., H, W) that mmcv's flips mirror."""


class StitchedScores(NamedTuple):
    """Class scores of an image as a table of the distinct score rows and a map into it.

    Pixels of one group share their scores, so an image has few distinct rows. The map and the table
    together take far less memory than classes times pixels.
    """

    table: Tensor
    """(U, K) distinct score rows."""
    rows: Tensor
    """(H, W) row of each pixel."""
    guide: Tensor | None = None
    """(3, h, w), the image that a refinement follows, of any size."""
    image_size: tuple[int, int] | None = None
    """(height, width) of the image, where the map is of another size."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.image_size or (self.rows.shape[0], self.rows.shape[1])

    def flip(self, direction: str) -> 'StitchedScores':
        """Mirror the image: ``'horizontal'``, ``'vertical'`` or ``'diagonal'`` (both)."""
        axes = FLIPPED_AXES[direction]
        guide = None if self.guide is None else self.guide.flip(axes)
        return self._replace(rows=self.rows.flip(axes), guide=guide)

    def with_background(self, index: int, count: int) -> 'StitchedScores':
        """Scores at one of several background thresholds.

        Args:
            index: Which of the thresholds.
            count: Number of thresholds. The table's first columns are the background at each of
                them, and the foreground follows.
        """
        columns = torch.cat([self.table[:, index : index + 1], self.table[:, count:]], dim=1)
        return self._replace(table=columns)

    def pieces(self, size: tuple[int, int] | None = None) -> ScorePieces:
        """Scores at a size, (height, width) in pixels, resized bilinearly; the own by default."""
        height, width = size or self.size

        def make(classes: Tensor | None, band: slice) -> Tensor:
            table = self.table if classes is None else self.table[:, classes.to(self.table.device)]
            scores = F.interpolate(
                table.T[:, self.rows][None],
                size=(height, width),
                mode='bilinear',
                align_corners=False,
            )
            return scores[0, :, band]

        return ScorePieces(
            make, self.table.shape[1], (height, width), self.table.device, by_columns=True
        )

    def logits(self, size: tuple[int, int]) -> Tensor:
        """Dense scores (K, height, width), resized bilinearly; memory grows with all three."""
        return self.pieces(size).logits()

    def class_map(self, size: tuple[int, int]) -> Tensor:
        """Best class of each pixel after bilinear resizing, as argmax of :meth:`logits` would be.

        Args:
            size: (height, width) of the result.

        Returns:
            (height, width), int64.
        """
        return mean_class_map([self], size)

    def scores_of(self, labels: Tensor) -> Tensor:
        """Score of one class at each pixel, as :meth:`logits` has it there.

        Args:
            labels: (height, width) class of each pixel, at the size of the result.

        Returns:
            (height, width).
        """
        if labels.shape == self.rows.shape:
            return self.table[self.rows, labels]
        rows, columns = (
            bilinear_taps(*lengths, labels.device)
            for lengths in zip(self.rows.shape, labels.shape, strict=True)
        )
        score = self.table.new_zeros(labels.shape)
        for r, row_weights in ((rows.low, 1 - rows.weight), (rows.high, rows.weight)):
            for c, weights in ((columns.low, 1 - columns.weight), (columns.high, columns.weight)):
                corner = self.rows.index_select(0, r).index_select(1, c)
                score += self.table[corner, labels] * (row_weights[:, None] * weights)
        return score

    def at_size(self, size: tuple[int, int]) -> 'StitchedScores':
        """The scores of the nearest pixels at another size, (height, width)."""
        if tuple(size) == tuple(self.rows.shape):
            return self
        return self._replace(rows=nearest_pixels(self.rows, size))

    def _mix(self, table: Tensor, rows: Taps, columns: Taps) -> Tensor:
        """Mean of the table's rows at the four neighbours of each pixel, (P, classes)."""
        corners = [
            (self.rows[r, c], wr * wc)
            for r, wr in ((rows.low, 1 - rows.weight), (rows.high, rows.weight))
            for c, wc in ((columns.low, 1 - columns.weight), (columns.high, columns.weight))
        ]
        index, weights = (torch.stack(values, dim=1) for values in zip(*corners, strict=True))
        return F.embedding_bag(index, table, per_sample_weights=weights.to(table.dtype), mode='sum')


def mean_class_map(views: Sequence[StitchedScores], size: tuple[int, int]) -> Tensor:
    """Best class of each pixel by the mean of several views' scores, each resized bilinearly.

    A resized pixel mixes four pixels of each view. If all of them have one best class, the mixture
    has the same; only elsewhere, along the borders of segments and where views disagree, scores are
    mixed at all.

    Args:
        views: Scores of one image, of any sizes and the same classes.
        size: (height, width) of the result.

    Returns:
        (height, width), int64: argmax of the mean of :meth:`StitchedScores.logits`.
    """
    size = (size[0], size[1])
    result = None
    taps = []
    for view in views:
        labels = view.table.argmax(dim=1)[view.rows]
        if len(views) == 1 and size == tuple(labels.shape):
            return labels
        rows, columns = (
            bilinear_taps(*lengths, labels.device)
            for lengths in zip(labels.shape, size, strict=True)
        )
        taps.append((rows, columns))
        labels = _uniform_cells(labels).index_select(0, rows.low).index_select(1, columns.low)
        result = labels if result is None else result.masked_fill_(result != labels, MIXED)
    assert result is not None
    result = result.flatten()
    mixed = (result == MIXED).nonzero().squeeze(1)
    if not len(mixed):
        return result.view(*size)
    classes = _contenders([view.table for view in views])
    tables = [view.table[:, classes] for view in views]
    for pixels in mixed.split(max(SCORE_ELEMENTS // len(classes), 1)):
        y, x = pixels // size[1], pixels % size[1]
        scores = reduce(
            add,
            (
                view._mix(table, rows.at(y), columns.at(x))
                for view, table, (rows, columns) in zip(views, tables, taps, strict=True)
            ),
        )
        result[pixels] = classes[scores.max(dim=1).indices]
    return result.view(*size)


def _contenders(tables: Sequence[Tensor]) -> Tensor:
    """Classes that can be the best of a mixture: those ever above the smallest score of a table.

    Most classes have no score anywhere, because an image admits few (docs/method.md, 4.2). Class 0
    stays for pixels where all are equal.
    """
    above = torch.stack([(table > table.min()).any(dim=0) for table in tables]).any(dim=0)
    above[0] = True
    return above.nonzero().squeeze(1)


def _uniform_cells(labels: Tensor) -> Tensor:
    """Label that a pixel shares with its neighbours on the right and below, or ``MIXED``."""
    right = torch.cat([labels[:, 1:], labels[:, -1:]], dim=1)
    uniform = labels == right
    uniform &= torch.cat([uniform[1:], uniform[-1:]])
    uniform[:-1] &= labels[1:] == labels[:-1]
    return labels.masked_fill(~uniform, MIXED)


def stitch(
    size: tuple[int, int],
    windows: Sequence[Window],
    groups: Sequence[Tensor],
    scores: Sequence[Tensor],
) -> StitchedScores:
    """Average the class scores of overlapping windows (docs/method.md, 4.4).

    Args:
        size: (H, W) of the image.
        windows: Windows that cover the image.
        groups: For each window the group of its pixels, (height, width).
        scores: For each window the class scores of its groups, (G, K).

    Returns:
        Mean scores of each pixel.
    """
    if len(windows) == 1:
        return StitchedScores(scores[0], groups[0])
    index = groups[0].new_zeros(size)
    table = torch.zeros_like(scores[0][:1])
    counts = table.new_zeros(1)
    for window, window_groups, window_scores in zip(windows, groups, scores, strict=True):
        region = index[window.top : window.bottom, window.left : window.right]
        num_groups = len(window_scores)
        # each pair of what the pixels had so far and their group here becomes a row of the table
        pair = region * num_groups + window_groups
        present = torch.zeros(len(table) * num_groups, dtype=torch.bool, device=pair.device)
        present[pair.flatten()] = True
        row_of_pair = present.cumsum(0) - 1 + len(table)
        region.copy_(row_of_pair[pair])
        pairs = present.nonzero().squeeze(1)
        before = pairs // num_groups
        table = torch.cat([table, table[before] + window_scores[pairs % num_groups]])
        counts = torch.cat([counts, counts[before] + 1])
    return StitchedScores(table / counts.clamp(min=1)[:, None], index)
