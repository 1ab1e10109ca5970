import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..layers.dist import gather_with_grad
from ..layers.micro_batches import in_micro_batches
from ..layers.precision import at_least_float32
from ..layers.regions import RegionLayout, group_shares
from .contrastive_loss import contrast_scores

NO_SHARE, LOG_NO_SHARE = 1e-6, -1e4
"""A share that counts as none, and its logarithm, which no similarity makes up for."""


@MODELS.register_module()
class LateInteractionLoss(nn.Module):
    """Symmetric contrast of prompts and the groups that fit them best (docs/method.md, 3.7).

    Groups and prompts meet as in FILIP (arXiv 2111.07783): a region and a prompt are as similar as
    the groups are in the mean, weighted by the exponential of their scaled similarity itself times
    the share of the group that lies in the region. That is nearly the similarity of one group, so
    that a group need not fit the other prompts of its region. A group that lies mostly elsewhere
    counts where it fits far better than those inside. Regions are those of joined images, as in
    :class:`RegionTextContrast`; an image that was not joined is one.

    Each rank compares its regions with everybody's prompts, and its prompts with everybody's
    regions. Images times prompts times groups times regions weights are kept for the backward pass,
    unless it works in micro-batches. The temperature is that of the image-text contrast, so the
    module has no parameters.

    Args:
        loss_weight: Factor of the loss.
        micro_batch_size: Images whose weights are held at a time, and worked out once more in the
            backward pass; ``None`` keeps those of all.

    Raises:
        ValueError: If ``micro_batch_size`` is not positive.
    """

    def __init__(self, loss_weight: float = 1.0, micro_batch_size: int | None = None) -> None:
        super().__init__()
        if micro_batch_size is not None and micro_batch_size < 1:
            raise ValueError(f'micro_batch_size must be None or at least 1, got {micro_batch_size}')
        self.loss_weight = loss_weight
        self.micro_batch_size = micro_batch_size

    def forward(
        self,
        group_embeds: Tensor,
        prompt_embeds: Tensor,
        scale: Tensor,
        assignment: Tensor,
        layout: RegionLayout | None = None,
    ) -> Tensor:
        """Mean cross-entropy of both directions.

        Args:
            group_embeds: (M, G, D) embeddings of the groups, each projected; not normalised. M and
                G must be the same on every rank.
            prompt_embeds: (B, K, D), not normalised. K must be the same on every rank.
            scale: Inverse temperature, a scalar.
            assignment: (M, G, h, w) soft assignment of patches to groups, not negative.
            layout: The regions; ``None`` if image i has the prompts i.

        Returns:
            This rank's mean; its mean over ranks is the loss of the global batch.

        Raises:
            ValueError: If the shapes do not fit, or there is no prompt.
        """
        images = len(prompt_embeds) if layout is None else len(layout.captions)
        self._check(group_embeds, prompt_embeds, assignment, images)
        with torch.autocast(group_embeds.device.type, enabled=False):
            groups = F.normalize(at_least_float32(group_embeds), dim=-1)
            prompts = F.normalize(at_least_float32(prompt_embeds), dim=-1).flatten(0, 1)
            if layout is None:
                captions = torch.arange(images, device=groups.device)
                shares = groups.new_zeros(images, 1, groups.shape[1])
            else:
                captions = layout.captions.flatten()
                shares = _log_shares(assignment, layout).to(groups.dtype)
            all_prompts = gather_with_grad(prompts)
            to_prompts = self._scores(groups, shares, all_prompts, scale)
            to_regions = (
                to_prompts.T  # a single process has all of them already
                if all_prompts is prompts
                else self._scores(
                    gather_with_grad(groups), gather_with_grad(shares), prompts, scale
                ).T
            )
            return self.loss_weight * contrast_scores(
                to_prompts, to_regions, captions, prompt_embeds.shape[1]
            )

    def _scores(self, groups: Tensor, log_shares: Tensor, prompts: Tensor, scale: Tensor) -> Tensor:
        """Scaled similarity (M * R, N) of regions and prompts.

        Args:
            groups: (M, G, D), normalised.
            log_shares: (M, R, G), of the groups in the regions.
            prompts: (N, D), normalised.
            scale: Inverse temperature.
        """

        def of_images(groups: Tensor, log_shares: Tensor) -> Tensor:
            similarity = scale * groups @ prompts.T
            weights = (similarity[:, None] + log_shares[..., None]).softmax(dim=2)
            return (weights * similarity[:, None]).sum(dim=2)

        return in_micro_batches(of_images, self.micro_batch_size, groups, log_shares).flatten(0, 1)

    @staticmethod
    def _check(
        group_embeds: Tensor, prompt_embeds: Tensor, assignment: Tensor, images: int
    ) -> None:
        if (
            group_embeds.ndim != 3
            or prompt_embeds.ndim != 3
            or prompt_embeds.shape[1] == 0
            or (len(group_embeds), group_embeds.shape[2]) != (images, prompt_embeds.shape[2])
        ):
            raise ValueError(
                f'expected group embeddings ({images}, G, D) and prompt embeddings (B, K, D) with '
                f'K of at least 1, got {tuple(group_embeds.shape)} and {tuple(prompt_embeds.shape)}'
            )
        if assignment.ndim != 4 or assignment.shape[:2] != group_embeds.shape[:2]:
            raise ValueError(
                f'expected the assignment (M, G, h, w) of groups {tuple(group_embeds.shape[:2])}, '
                f'got {tuple(assignment.shape)}'
            )


def _log_shares(assignment: Tensor, layout: RegionLayout) -> Tensor:
    """Logarithm (M, R, G) of the share of each group that lies in each region.

    In a region without any group all count the same, as they do in a whole image.
    """
    shares = group_shares(assignment, layout.shares((assignment.shape[-2], assignment.shape[-1])))
    if layout.num_regions == 1:
        return torch.zeros_like(shares)
    return shares.clamp(min=NO_SHARE).log().masked_fill(shares < NO_SHARE, LOG_NO_SHARE)
