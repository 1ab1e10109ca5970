from mmseg.registry import MODELS
from torch import Tensor, nn

from .contrastive_loss import contrast


@MODELS.register_module()
class MultiLabelContrastiveLoss(nn.Module):
    """Symmetric contrast of images and prompts of their captions' nouns (docs/method.md, 3.2).

    Each image has K prompts, which share its target equally. GroupViT's option; the temperature is
    that of the image-text contrast, so the module has no parameters.

    Args:
        loss_weight: Factor of the loss.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(
        self,
        image_embeds: Tensor,
        prompt_embeds: Tensor,
        scale: Tensor,
        captions: Tensor | None = None,
    ) -> Tensor:
        """Mean cross-entropy of both directions.

        Args:
            image_embeds: (M, D) of images or regions, not normalised. M must be the same on every
                rank.
            prompt_embeds: (B, K, D), not normalised. K must be the same on every rank.
            scale: Inverse temperature, a scalar.
            captions: (M,) row of prompts of each image; ``None`` if row i are the prompts of image
                i. See :class:`RegionTextContrast`.

        Returns:
            This rank's mean; its mean over ranks is the loss of the global batch.

        Raises:
            ValueError: If the shapes do not fit, or there is no prompt.
        """
        rows = prompt_embeds.shape[0] if captions is None else len(captions)
        if (
            prompt_embeds.ndim != 3
            or prompt_embeds.shape[1] == 0
            or image_embeds.shape != (rows, prompt_embeds.shape[2])
        ):
            raise ValueError(
                'expected image embeddings (B, D) and prompt embeddings (B, K, D) with K of at '
                f'least 1, got {tuple(image_embeds.shape)} and {tuple(prompt_embeds.shape)}'
            )
        return self.loss_weight * contrast(image_embeds, prompt_embeds, scale, captions)
