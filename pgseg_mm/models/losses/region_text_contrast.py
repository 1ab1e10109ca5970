import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from ..layers.precision import at_least_float32
from ..layers.regions import RegionLayout, presence
from .contrastive_loss import contrast
from .temperature import LearnedTemperature


@MODELS.register_module()
class RegionTextContrast(LearnedTemperature):
    """Symmetric contrast of regions and captions over the global batch (docs/method.md, 3.6).

    Regions are those of images that :class:`PasteImages` or :class:`MosaicImages` have joined, and
    a region's embedding is the mean of the groups' embeddings, weighted by what of the region is
    theirs. So a caption teaches each group by its share of the region's content, which is small
    where the group is elsewhere; more only through attention. With one region, the whole image,
    all groups count the same.

    It needs a soft assignment, embeddings of groups or queries, and the layout, and so fits any
    model that has queries and masks.

    Args:
        temperature: Initial temperature; it is learned.
        max_scale: Upper limit of the inverse temperature.
        loss_weight: Factor of the loss.
    """

    def __init__(
        self, temperature: float = 0.07, max_scale: float = 100.0, loss_weight: float = 1.0
    ) -> None:
        super().__init__(temperature, max_scale)
        self.loss_weight = loss_weight

    @staticmethod
    def embed_regions(
        group_embeds: Tensor, assignment: Tensor, layout: RegionLayout | None = None
    ) -> Tensor:
        """Embeddings of regions.

        Args:
            group_embeds: (M, G, D) embeddings of the groups, each projected; not normalised.
            assignment: (M, G, h, w) soft assignment of patches to groups, not negative.
            layout: The regions; ``None`` for whole images.

        Returns:
            (M * R, D), image by image, in float32 at least.

        Raises:
            ValueError: If the layout is of another number of images.
        """
        with torch.autocast(group_embeds.device.type, enabled=False):
            embeds = F.normalize(at_least_float32(group_embeds), dim=-1)
            if layout is None:
                return embeds.mean(dim=1)
            if len(layout.captions) != len(embeds):
                raise ValueError(
                    f'the layout has the regions of {len(layout.captions)} images, but there are '
                    f'groups of {len(embeds)}'
                )
            grid_size = (assignment.shape[-2], assignment.shape[-1])
            weights = presence(assignment, layout.shares(grid_size))
            return (weights.to(embeds.dtype) @ embeds).flatten(0, 1)

    def forward(
        self, region_embeds: Tensor, text_embeds: Tensor, captions: Tensor | None = None
    ) -> Tensor:
        """Mean cross-entropy of both directions.

        Args:
            region_embeds: (M, D), not normalised. M must be the same on every rank.
            text_embeds: (B, D), not normalised.
            captions: (M,) the text of each region; ``None`` if row i belongs to row i. Each text
                has a region; those of one text share its target equally.

        Returns:
            This rank's mean; its mean over ranks is the loss of the global batch.

        Raises:
            ValueError: If the shapes do not fit.
        """
        expected = len(text_embeds) if captions is None else len(captions)
        if len(region_embeds) != expected or region_embeds.shape[1] != text_embeds.shape[1]:
            raise ValueError(
                f'expected ({expected}, {text_embeds.shape[1]}) embeddings of regions, got '
                f'{tuple(region_embeds.shape)}'
            )
        return self.loss_weight * contrast(
            region_embeds, text_embeds[:, None], self.scale, captions
        )
