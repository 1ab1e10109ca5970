import logging
import math

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from .precision import at_least_float32


def resize_position_embedding(
    embedding: Tensor,
    grid_size: tuple[int, int],
    new_size: tuple[int, int],
    offset: float = 0.0,
) -> Tensor:
    """Resize a grid of position embeddings (bicubic, no corner alignment; docs/method.md, 1.1).

    Args:
        embedding: (1, h * w, C).
        grid_size: (h, w).
        new_size: (h', w').
        offset: Added to h' and w' where they are divided by h and w, below one: row i is read at
            (i + 1/2) h / (h' + offset) - 1/2, and columns likewise.

    Returns:
        (1, h' * w', C).

    In torch's deterministic mode an interpolation has no gradient on a GPU. Training in that mode
    takes the same resizing as a product with its matrix, on any device.
    """
    # an export with free sizes must not take the example's for the only one
    exported = any(isinstance(side, torch.SymInt) for side in new_size)
    if not exported and tuple(grid_size) == tuple(new_size):
        return embedding
    learns = embedding.requires_grad and torch.is_grad_enabled()
    if learns and torch.are_deterministic_algorithms_enabled():
        units = torch.eye(embedding.shape[1], device=embedding.device)[None]
        with torch.autocast(embedding.device.type, enabled=False):
            weights = _resize(units.to(embedding.dtype), grid_size, new_size, offset)
            return weights @ embedding
    return _resize(embedding, grid_size, new_size, offset)


def _resize(
    embedding: Tensor, grid_size: tuple[int, int], new_size: tuple[int, int], offset: float
) -> Tensor:
    grid = embedding.unflatten(1, grid_size).permute(0, 3, 1, 2)
    if offset:
        grid = _sample(grid, new_size, offset)
    else:
        grid = F.interpolate(grid, size=new_size, mode='bicubic', align_corners=False)
    return grid.flatten(2).transpose(1, 2)


def fit_position_embedding(loaded: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Resize the position embedding of a checkpoint, which is of squares if it has to be resized.

    Whether as many positions lie in another shape cannot be told, so a warning says how they are
    taken.

    Args:
        loaded: (1, N, C).
        grid_size: (h, w) of the model.

    Returns:
        (1, h * w, C); what was loaded if N is another number and no square.
    """
    number, (height, width) = loaded.shape[1], grid_size
    side = math.isqrt(number)
    if side * side != number or (height, width) == (side, side):
        return loaded
    if number != height * width:
        return resize_position_embedding(loaded, (side, side), grid_size)
    print_log(
        f'The {number} positions of the checkpoint are taken as {height} x {width} patches, as '
        f'img_size has them. If it was trained with {side} x {side}, they are in wrong places: '
        'load it with another number of patches.',
        logger='current',
        level=logging.WARNING,
    )
    return loaded


def _sample(grid: Tensor, new_size: tuple[int, int], offset: float) -> Tensor:
    """As interpolation by a scale factor, which an export takes for one of the example's size."""
    x = at_least_float32(grid)
    height, width = (x.new_full((), side) for side in new_size)
    differs = (height != grid.shape[2]) | (width != grid.shape[3])  # always, but for an export
    added = offset * differs.to(x.dtype)
    rows, columns = (
        (2 * torch.arange(side, device=x.device, dtype=x.dtype) + 1) / (length + added) - 1
        for side, length in zip(new_size, (height, width), strict=True)
    )
    places = torch.stack(torch.meshgrid(columns, rows, indexing='xy'), dim=-1)
    x = F.grid_sample(x, places[None], mode='bicubic', padding_mode='border', align_corners=False)
    return x.to(grid.dtype)
