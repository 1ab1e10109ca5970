import math

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from .clustering import check_clustering
from .precision import at_least_float32
from .token_grouping import cluster_grid


@MODELS.register_module()
class PrototypeRefinement(nn.Module):
    """Replaces the feature of each patch by its soft mixture of prototypes (docs/clip.md).

    The patches of an image, or of a window, are clustered as PGSeg's prototypes are, on
    features without their mean; see :func:`cluster_grid`. A prototype is
    the mean of what is assigned to it, so that words name prototypes in place of patches. Nothing
    is learned.

    Args:
        num_prototypes: Number of prototypes G. They start on a grid of G cells whose sides are as
            near to the image's as the divisors of G allow.
        scale: Inverse temperature of the assignment.
        num_iters: Rounds of clustering.

    Raises:
        ValueError: If an argument is not positive, or there are more than 65 536 prototypes or
            1000 rounds.
    """

    def __init__(self, num_prototypes: int = 16, scale: float = 20.0, num_iters: int = 10) -> None:
        super().__init__()
        check_clustering('num_prototypes', num_prototypes, num_iters)
        if not scale > 0:
            raise ValueError(f'scale must be positive, got {scale}')
        self.num_prototypes = num_prototypes
        self.scale = scale
        self.num_iters = num_iters

    def forward(self, features: Tensor) -> Tensor:
        """Mix (B, D, h, w) features, of any length; the result is float32 at least.

        There is no gradient through the assignment, but one through the prototypes.

        Raises:
            ValueError: If it is exported for images of any size.
        """
        grid_size = (features.shape[2], features.shape[3])
        if any(isinstance(side, torch.SymInt) for side in grid_size):
            raise ValueError(
                'PrototypeRefinement starts from a grid that depends on the size of the image: '
                'export it for one size, or without refine'
            )
        with torch.autocast(features.device.type, enabled=False):
            x = F.normalize(at_least_float32(features).flatten(2).transpose(1, 2), dim=-1)
            seeds = seed_grid(self.num_prototypes, grid_size)
            _, assignment = cluster_grid(x, grid_size, seeds, self.scale, self.num_iters)
            prototypes = assignment @ x / assignment.sum(dim=2, keepdim=True)
            return (prototypes.transpose(1, 2) @ assignment).unflatten(2, grid_size)


def seed_grid(number: int, grid_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns whose product is a number and whose cells on a grid (h, w) are the squarest.

    Args:
        number: Number of cells.
        grid_size: (h, w).
    """
    height, width = grid_size

    def elongation(rows: int) -> float:
        return abs(math.log(height * number / (width * rows * rows)))

    rows = min((n for n in range(1, number + 1) if number % n == 0), key=elongation)
    return rows, number // rows
