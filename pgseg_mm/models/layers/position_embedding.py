import torch
import torch.nn.functional as F
from torch import Tensor


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
    """
    # an export with free sizes must not take the example's for the only one
    exported = any(isinstance(side, torch.SymInt) for side in new_size)
    if not exported and tuple(grid_size) == tuple(new_size):
        return embedding
    grid = embedding.unflatten(1, grid_size).permute(0, 3, 1, 2)
    if offset:
        scale = [(new + offset) / old for new, old in zip(new_size, grid_size, strict=True)]
        grid = F.interpolate(grid, scale_factor=scale, mode='bicubic', align_corners=False)
    else:
        grid = F.interpolate(grid, size=new_size, mode='bicubic', align_corners=False)
    return grid.flatten(2).transpose(1, 2)
