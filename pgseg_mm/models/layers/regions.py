"""Where the captions of a joined image belong, and which groups are there."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float32


class RegionLayout(NamedTuple):
    """Regions with known captions, of images that were joined from B captioned ones.

    All M images of a batch are cut into regions in the same way.
    """

    labels: Tensor
    """(H, W), the region 0 to R - 1 of each pixel; int64."""
    captions: Tensor
    """(M, R), which of the batch's B captions is that of a region; int64. Each of them has one."""

    @property
    def num_regions(self) -> int:
        """Regions R of an image."""
        return self.captions.shape[1]

    def covered(self, grid_size: tuple[int, int], patch_size: int) -> RegionLayout:
        """The layout of the pixels that are in patches.

        Those on the right and at the bottom that fill no patch are left out, as a backbone leaves
        them out that does not pad; with one that pads, it is the layout as it is.

        Args:
            grid_size: Height and width of the patch grid.
            patch_size: Side of a patch in pixels.
        """
        height, width = (side * patch_size for side in grid_size)
        if height > self.labels.shape[0] or width > self.labels.shape[1]:
            return self
        return self._replace(labels=self.labels[:height, :width])

    def shares(self, grid_size: tuple[int, int]) -> Tensor:
        """Which share of each patch belongs to a region.

        Args:
            grid_size: Height and width of the patch grid.

        Returns:
            (R, h, w), float32; sums to one over the regions.
        """
        masks = F.one_hot(self.labels, self.num_regions).permute(2, 0, 1).float()
        return F.adaptive_avg_pool2d(masks, grid_size)


def whole_images(images: Tensor) -> RegionLayout:
    """The layout of (B, 3, H, W) images that are as they were: one region each."""
    return RegionLayout(
        torch.zeros(images.shape[-2:], dtype=torch.long, device=images.device),
        torch.arange(len(images), device=images.device)[:, None],
    )


def group_shares(assignment: Tensor, shares: Tensor, eps: float = 1e-6) -> Tensor:
    """Which share of each group lies in each region.

    Args:
        assignment: (M, G, h, w) soft assignment of patches to groups.
        shares: (R, h, w) share of each patch in each region.
        eps: Keeps the quotients finite where a group is empty.

    Returns:
        (M, R, G), float32 at least; sums to one over the regions.
    """
    with torch.autocast(assignment.device.type, enabled=False):
        assignment = at_least_float32(assignment).flatten(2)
        inside = torch.einsum('mgn,rn->mrg', assignment, shares.to(assignment.dtype).flatten(1))
        return inside / assignment.sum(dim=2).clamp(min=eps)[:, None]


def presence(assignment: Tensor, shares: Tensor, eps: float = 1e-6) -> Tensor:
    """How much of a region's content is each group's (docs/method.md, 3.6).

    The share of a group that lies in the region, so that a small group counts as much as a large
    one, normalised over the groups.

    Args:
        assignment: (M, G, h, w) soft assignment of patches to groups.
        shares: (R, h, w) share of each patch in each region.
        eps: Keeps the quotients finite where a group or a region is empty.

    Returns:
        (M, R, G), float32 at least; sums to one over the groups.
    """
    with torch.autocast(assignment.device.type, enabled=False):
        inside = group_shares(assignment, shares, eps)
        return inside / inside.sum(dim=2, keepdim=True).clamp(min=eps)
