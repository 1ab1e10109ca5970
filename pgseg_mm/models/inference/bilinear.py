"""Bilinear resizing, corners not aligned, as weights of neighbours."""

from typing import NamedTuple

import torch
from torch import Tensor


class Taps(NamedTuple):
    """Two neighbours of each output position and the weight of the second."""

    low: Tensor
    high: Tensor
    weight: Tensor

    def at(self, positions: Tensor) -> 'Taps':
        """Those of some positions."""
        return Taps(*(taps[positions] for taps in self))


def bilinear_taps(
    length: int, new_length: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> Taps:
    """Neighbours along one axis.

    Args:
        length: Positions before.
        new_length: Positions after.
        device: Where the result is to be.
        dtype: Type of the weights, and what they are computed in.
    """
    centres = torch.arange(new_length, device=device, dtype=dtype) + 0.5
    centres = (centres * (length / new_length) - 0.5).clamp(min=0)
    low = centres.long().clamp(max=length - 1)
    return Taps(low, (low + 1).clamp(max=length - 1), centres - low)


def resize_rows(matrix: Tensor, new_length: int) -> Tensor:
    """Resize a matrix (L, N) along its first axis to (new_length, N)."""
    if len(matrix) == new_length:
        return matrix
    taps = bilinear_taps(len(matrix), new_length, matrix.device, matrix.dtype)
    return torch.lerp(matrix[taps.low], matrix[taps.high], taps.weight[:, None])
