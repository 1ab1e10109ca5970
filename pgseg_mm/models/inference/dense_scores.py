"""Class scores of patches, from which those of pixels are made when they are needed."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .bilinear import resize_rows
from .score_pieces import ScorePieces
from .sliding_window import Window
from .stitching import FLIPPED_AXES

BAND = 256
"""Rows or columns of pixels that are interpolated at a time."""
NARROW = 96
"""Patches along an axis up to which bands do not pay."""


class DenseScores(NamedTuple):
    """Class scores of an image whose pixels all differ, as those of its windows' patches.

    The counterpart of :class:`StitchedScores`. Interpolation to the window, the mean where windows
    overlap, and interpolation to the size that is asked for are all linear along each axis, so
    scores of pixels are ``rows @ grid @ columns.T``, for any classes at a time.
    """

    grid: Tensor
    """(K, P, Q), patches of all windows side by side."""
    rows: Tensor
    """(H, P), weight of each row of patches in each row of pixels; on the CPU, float64."""
    columns: Tensor
    """(W, Q), the same for columns."""
    guide: Tensor | None = None
    """(3, h, w), the image that a refinement follows, of any size."""
    image_size: tuple[int, int] | None = None
    """(height, width) of the image, where ``rows`` and ``columns`` are of another size, such as
    those of patches, so that scores go straight to the size that is asked for."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.image_size or (len(self.rows), len(self.columns))

    def flip(self, direction: str) -> 'DenseScores':
        """Mirror the image: ``'horizontal'``, ``'vertical'`` or ``'diagonal'`` (both)."""
        axes = FLIPPED_AXES[direction]
        return self._replace(
            rows=self.rows.flip(0) if -2 in axes else self.rows,
            columns=self.columns.flip(0) if -1 in axes else self.columns,
            guide=None if self.guide is None else self.guide.flip(axes),
        )

    def with_background(self, index: int, count: int) -> 'DenseScores':
        """Scores at one of several background thresholds.

        Args:
            index: Which of the thresholds.
            count: Number of thresholds. The first maps are the background at each of them, and the
                foreground follows.
        """
        return self._replace(grid=torch.cat([self.grid[index : index + 1], self.grid[count:]]))

    def pieces(self, size: tuple[int, int] | None = None) -> ScorePieces:
        """Scores at a size, (height, width) in pixels, resized bilinearly; the own by default."""
        height, width = size or self.size
        rows = resize_rows(self.rows, height)
        bands = _bands(resize_rows(self.columns, width), self.grid)

        def make(classes: Tensor | None, band: slice) -> Tensor:
            weights = rows[band]
            used = weights.any(dim=0).nonzero().squeeze(1)
            patches = used.to(self.grid.device)
            if classes is None:
                grid = self.grid.index_select(1, patches)
            else:
                grid = self.grid[classes.to(patches.device)[:, None], patches]
            out = grid.new_empty(len(grid), len(weights), width)
            with torch.autocast(grid.device.type, enabled=False):
                stretched = weights[:, used].to(grid) @ grid
                for x, used_columns, column_weights in bands:
                    out[:, :, x] = stretched[:, :, used_columns] @ column_weights.T
            return out

        return ScorePieces(make, len(self.grid), (height, width), self.grid.device)

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
        return self.pieces(size).best().columns

    def at_size(self, size: tuple[int, int]) -> 'DenseScores':
        """The scores of the nearest pixels at another size, (height, width)."""
        if self.image_size is not None:  # no pixels between patches and what is asked for
            return self._replace(image_size=size)
        rows, columns = (
            matrix[((torch.arange(new) + 0.5) * (len(matrix) / new)).long()]
            for matrix, new in zip((self.rows, self.columns), size, strict=True)
        )
        return self._replace(rows=rows, columns=columns)


def join_windows(
    size: tuple[int, int],
    windows: Sequence[Window],
    scores: Sequence[Tensor],
    divisor: int = 1,
    direct: bool = False,
) -> DenseScores:
    """Put the scores of windows together; where they overlap, they will be averaged.

    Args:
        size: (H, W) of the image.
        windows: Windows of one size that cover the image, row by row, as
            :func:`sliding_windows` makes them.
        scores: For each window the class scores of its patches, (K, h, w).
        divisor: What the sides of windows were padded to multiples of before they were encoded.
        direct: Whether the scores of one window go from its patches straight to the size that is
            asked for, and not to the image's first.

    Raises:
        ValueError: If there are several windows, or padded ones, that are to go straight there.
    """
    if direct:
        if len(windows) > 1 or divisor > 1:
            raise ValueError('only the scores of one window without padding can skip its pixels')
        rows, columns = (torch.eye(n, dtype=torch.float64) for n in scores[0].shape[1:])
        return DenseScores(scores[0], rows, columns, image_size=(size[0], size[1]))
    tops = sorted({window.top for window in windows})
    lefts = sorted({window.left for window in windows})
    grids = torch.stack(list(scores)).unflatten(0, (len(tops), len(lefts)))
    axes = zip(size, (tops, lefts), windows[0].size, grids.shape[-2:], strict=True)
    rows, columns = (_axis_weights(*axis, divisor) for axis in axes)
    # (rows, columns, K, h, w)
    return DenseScores(grids.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2), rows, columns)


def _axis_weights(
    length: int, starts: Sequence[int], window: int, patches: int, divisor: int
) -> Tensor:
    """(length, windows * patches), weight of each patch of an axis in each pixel."""
    before, after = padding_of(window, divisor)
    padded = resize_rows(torch.eye(patches, dtype=torch.float64), before + window + after)
    weights = torch.zeros(length, len(starts), patches, dtype=torch.float64)
    for number, start in enumerate(starts):
        weights[start : start + window, number] = padded[before : before + window]
    return weights.flatten(1) / weights.sum(dim=(1, 2))[:, None]


def padding_of(length: int, divisor: int) -> tuple[int, int]:
    """Pixels to put before and behind a side to make it a multiple, half of them before."""
    padding = -length % divisor
    return padding // 2, padding - padding // 2


def _bands(weights: Tensor, like: Tensor) -> list[tuple[slice, Tensor | slice, Tensor]]:
    """Bands of pixels, for each the patches with a weight, and these weights as ``like`` is."""
    if weights.shape[1] <= NARROW:
        return [(slice(None), slice(None), weights.to(like))]
    bands: list[tuple[slice, Tensor | slice, Tensor]] = []
    for start in range(0, len(weights), BAND):
        band = weights[start : start + BAND]
        used = band.any(dim=0).nonzero().squeeze(1)
        bands.append((slice(start, start + BAND), used.to(like.device), band[:, used].to(like)))
    return bands
