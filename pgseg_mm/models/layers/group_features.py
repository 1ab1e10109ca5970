"""What a grouping backbone returns."""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor


def patch_assignment(assignments: Sequence[Tensor], grid_size: tuple[int, int]) -> Tensor:
    """Soft assignment of patches to the groups of the last of some stages (docs/method.md, 4.1).

    Args:
        assignments: (B, G_s, N_s) of the stages, from the first on.
        grid_size: Patch grid (h, w).

    Returns:
        (B, G_s, h, w), normalised over groups.
    """
    # (G_s x G_{s-1}) ... (G_0 x N)
    return reduce(torch.matmul, reversed(assignments)).unflatten(2, grid_size)


class GroupFeatures(NamedTuple):
    """An image as groups: what ``PGSegViT(out_type='groups')`` returns.

    Tuples have one entry for each grouping stage.
    """

    tokens: Tensor
    """(B, G, C), final group tokens after the last layer norm."""
    assignments: tuple[Tensor, ...]
    """(B, G_s, N_s), soft assignment of a stage's tokens to its groups, normalised over groups."""
    centres: tuple[Tensor, ...]
    """(B, G_s, C_s), group centres."""
    prototypes: tuple[Tensor, ...]
    """(B, G_s, C_s), prototypes without gradient; empty where they are switched off."""
    grid_size: tuple[int, int]
    """Patch grid (height, width); their product is the number of tokens of the first stage."""

    def patch_assignment(self, stage: int = -1) -> Tensor:
        """Soft assignment of patches to the groups of a stage (docs/method.md, 4.1).

        Args:
            stage: Index of the grouping stage.

        Returns:
            (B, G_s, h, w), normalised over groups.
        """
        last = range(len(self.assignments))[stage]
        return patch_assignment(self.assignments[: last + 1], self.grid_size)

    def group_usage(self) -> tuple[Tensor, ...]:
        """Mean number of groups of each stage that win at least one patch, as scalars."""
        usage = []
        for stage in range(len(self.assignments)):
            assignment = self.patch_assignment(stage).detach().flatten(2)
            wins = torch.zeros_like(assignment[..., 0]).scatter_(1, assignment.argmax(1), 1)
            usage.append(wins.sum(1).mean())
        return tuple(usage)
