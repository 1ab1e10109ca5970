import torch
import torch.nn.functional as F
from mmengine.dist import get_rank
from mmseg.registry import MODELS
from torch import Tensor

from ..layers.dist import gather_with_grad
from ..layers.precision import at_least_float32
from .temperature import LearnedTemperature


@MODELS.register_module()
class ImageTextContrastiveLoss(LearnedTemperature):
    """Symmetric contrast of images and texts over the global batch (docs/method.md, 3.1).

    Each rank compares its own images and texts with everybody's: no more than local batch times
    global batch logits are made, twice, and gradients flow through the gather to every rank.

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

    def forward(self, image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
        """Mean cross-entropy of both directions.

        Args:
            image_embeds: (B, D), not normalised; row i belongs to row i of the texts. B must be
                the same on every rank.
            text_embeds: (B, D), not normalised.

        Returns:
            This rank's mean; its mean over ranks is the loss of the global batch.

        Raises:
            ValueError: If the shapes differ.
        """
        if image_embeds.shape != text_embeds.shape:
            raise ValueError(
                'image and text embeddings must have one shape, got '
                f'{tuple(image_embeds.shape)} and {tuple(text_embeds.shape)}'
            )
        return self.loss_weight * contrast(image_embeds, text_embeds[:, None], self.scale)


def contrast(
    image_embeds: Tensor, text_embeds: Tensor, scale: Tensor, captions: Tensor | None = None
) -> Tensor:
    """Symmetric contrast over the global batch, in float32 at least (docs/method.md, 3.1, 3.2).

    An image's K texts share its target equally; the targets of each text are its images, or
    regions of images, which share it equally, too.

    Args:
        image_embeds: (M, D), not normalised, of images or regions. M must be the same on every
            rank.
        text_embeds: (B, K, D), not normalised.
        scale: Inverse temperature, a scalar.
        captions: (M,) row of the texts that belongs to each image; ``None`` if row i belongs to
            image i. Each row belongs to an image.

    Returns:
        Mean of both directions' cross-entropies, of this rank's rows.
    """
    with torch.autocast(image_embeds.device.type, enabled=False):
        images = F.normalize(at_least_float32(image_embeds), dim=-1)
        texts = F.normalize(at_least_float32(text_embeds), dim=-1)
        if captions is None:
            return _contrast_pairs(images, texts, scale)
        return _contrast_regions(images, texts, scale, captions)


def _contrast_pairs(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Contrast of images (B, D) and their texts (B, K, D), normalised."""
    gathered = gather_with_grad(torch.cat([images[:, None], texts], dim=1))
    all_images, all_texts = gathered[:, 0], gathered[:, 1:]
    rows = torch.arange(len(images), device=images.device)
    target = rows + get_rank() * len(images)
    shared = all_texts.new_zeros(len(images), *all_texts.shape[:2])
    # a tensor of the device: a number would be copied from the host, and wait for the device
    shared[rows, target] = shared.new_full((), 1 / texts.shape[1])
    image_to_text = F.cross_entropy(scale * images @ all_texts.flatten(0, 1).T, shared.flatten(1))
    text_to_image = F.cross_entropy(
        scale * texts.flatten(0, 1) @ all_images.T, target.repeat_interleave(texts.shape[1])
    )
    return (image_to_text + text_to_image) / 2


def _contrast_regions(regions: Tensor, texts: Tensor, scale: Tensor, captions: Tensor) -> Tensor:
    """Contrast of regions (M, D) and the texts (B, K, D) that ``captions`` names, normalised."""
    all_regions, all_texts = gather_with_grad(regions), gather_with_grad(texts)
    return contrast_scores(
        scale * regions @ all_texts.flatten(0, 1).T,
        scale * texts.flatten(0, 1) @ all_regions.T,
        captions,
        texts.shape[1],
    )


def contrast_scores(
    region_to_text: Tensor, text_to_region: Tensor, captions: Tensor, per_text: int
) -> Tensor:
    """Symmetric contrast of regions and texts whose scores are known.

    Args:
        region_to_text: (M, W * B * K) logits of this rank's regions and the texts of all W ranks.
        text_to_region: (B * K, W * M) logits of this rank's texts and the regions of all ranks.
        captions: (M,), which of this rank's B rows of K texts belongs to each of its regions.
        per_text: Texts K of a row.

    Returns:
        Mean of both directions' cross-entropies; see :func:`contrast`.
    """
    num_regions, num_rows = len(captions), len(text_to_region) // per_text
    rows = torch.arange(num_regions, device=captions.device)
    belongs = region_to_text.new_zeros(num_rows, num_regions)
    belongs[captions, rows] = belongs.new_ones(())  # of the device, as above
    # regions and texts of other ranks never belong together
    to_texts = torch.zeros_like(region_to_text).unflatten(1, (-1, per_text))
    first = get_rank() * num_rows
    to_texts[:, first : first + num_rows] = belongs.T[..., None] / per_text
    to_regions = belongs.new_zeros(num_rows, text_to_region.shape[1])
    first = get_rank() * num_regions
    to_regions[:, first : first + num_regions] = belongs / belongs.sum(dim=1, keepdim=True)
    texts_of_regions = F.cross_entropy(region_to_text, to_texts.flatten(1))
    regions_of_texts = F.cross_entropy(
        text_to_region, to_regions.repeat_interleave(per_text, dim=0)
    )
    return (texts_of_regions + regions_of_texts) / 2
