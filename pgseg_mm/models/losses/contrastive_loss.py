import torch
import torch.nn.functional as F
from mmengine.dist import get_rank
from mmseg.registry import MODELS
from torch import Tensor

from pgseg_mm.utils.dist import gather_with_grad

from .temperature import LearnedTemperature


@MODELS.register_module()
class ImageTextContrastiveLoss(LearnedTemperature):
    """Symmetric contrast of images and texts over the global batch (METHOD 3).

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
        with torch.autocast(image_embeds.device.type, enabled=False):
            images = F.normalize(_at_least_float32(image_embeds), dim=-1)
            texts = F.normalize(_at_least_float32(text_embeds), dim=-1)
            all_images, all_texts = gather_with_grad(torch.stack([images, texts], 1)).unbind(1)
            target = torch.arange(len(images), device=images.device) + get_rank() * len(images)
            image_to_text = F.cross_entropy(self.scale * images @ all_texts.T, target)
            text_to_image = F.cross_entropy(self.scale * texts @ all_images.T, target)
        return self.loss_weight * (image_to_text + text_to_image) / 2


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
