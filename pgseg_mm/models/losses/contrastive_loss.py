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


def contrast(image_embeds: Tensor, text_embeds: Tensor, scale: Tensor) -> Tensor:
    """Symmetric contrast over the global batch, in float32 at least (docs/method.md, 3.1, 3.2).

    An image's K texts share its target equally; the target of each text is its image.

    Args:
        image_embeds: (B, D), not normalised. B must be the same on every rank.
        text_embeds: (B, K, D), not normalised; row i belongs to image i.
        scale: Inverse temperature, a scalar.

    Returns:
        Mean of both directions' cross-entropies, of this rank's rows.
    """
    with torch.autocast(image_embeds.device.type, enabled=False):
        images = F.normalize(at_least_float32(image_embeds), dim=-1)
        texts = F.normalize(at_least_float32(text_embeds), dim=-1)
        gathered = gather_with_grad(torch.cat([images[:, None], texts], dim=1))
        all_images, all_texts = gathered[:, 0], gathered[:, 1:]
        rows = torch.arange(len(images), device=images.device)
        target = rows + get_rank() * len(images)
        shared = all_texts.new_zeros(len(images), *all_texts.shape[:2])
        shared[rows, target] = 1 / texts.shape[1]
        image_to_text = F.cross_entropy(
            scale * images @ all_texts.flatten(0, 1).T, shared.flatten(1)
        )
        text_to_image = F.cross_entropy(
            scale * texts.flatten(0, 1) @ all_images.T, target.repeat_interleave(texts.shape[1])
        )
    return (image_to_text + text_to_image) / 2
