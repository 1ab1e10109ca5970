from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..layers.precision import at_least_float32
from .open_vocab_head import OpenVocabHead


@MODELS.register_module()
class DenseCLIPHead(OpenVocabHead):
    """Names patches: the score of a word is the cosine of its embedding and the patch's feature.

    Nothing is learned. The number of classes follows the vocabulary, which the segmentor embeds by
    its text encoder; in mmseg's ``EncoderDecoder`` give ``class_embeds``.

    Args:
        in_channels: Channels D of the backbone's maps, such as those of :class:`CLIPDenseViT`,
            which lie in the space that images and texts share.
        class_embeds: (K, D) embeddings of the (foreground) classes, or a file with them, in which
            a class may have several (see :func:`load_class_embeds`).
        background_threshold: If given, class 0 is the background: patches whose best cosine stays
            below this value, or below the largest cosine of the window if that is smaller.
        loss_decode: Config of the loss, or losses, against label maps; the logits are cosines.
        init_cfg: Config of mmengine's weight initialisation.
        **kwargs: Further arguments of mmseg's :class:`BaseDecodeHead`, such as ``in_index``.

    Raises:
        ValueError: If ``background_threshold`` is not positive.
    """

    scores_pixels = True
    """Patches have scores of their own, not by groups."""

    def __init__(
        self,
        in_channels: int = 512,
        class_embeds: str | Path | Tensor | None = None,
        background_threshold: float | None = None,
        loss_decode: dict | list[dict] = dict(type='CrossEntropyLoss', avg_non_ignore=True),  # noqa: B006, C408
        init_cfg: dict | list[dict] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(
            in_channels,
            in_channels,
            class_embeds,
            background_threshold,
            loss_decode=loss_decode,
            init_cfg=init_cfg,
            **kwargs,
        )
        self.text_channels = in_channels
        self.text_projector = nn.Identity()

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Class scores of patches, as :meth:`dense_scores`."""
        return self.dense_scores(features)

    def dense_scores(
        self, features: Sequence[Tensor], thresholds: Sequence[float] | None = None
    ) -> Tensor:
        """Class scores of patches, for B windows.

        Args:
            features: Maps of the backbone, with (B, D, h, w) at ``in_index``.
            thresholds: Background thresholds in place of ``background_threshold``.

        Returns:
            (B, num_classes, h, w) cosines, a class's that of its best word, with the background
            first where there is one (1 or 0), or one for each of several thresholds.

        Raises:
            RuntimeError: If there are no classes.
        """
        self._check_classes()
        scores = self._best_words(self._cosines(features), dim=1)
        return self._with_background(scores, thresholds, dim=1)

    def _cosines(self, features: Sequence[Tensor]) -> Tensor:
        """(B, W, h, w), of patches and words."""
        maps = self._transform_inputs(features)
        with torch.autocast(maps.device.type, enabled=False):
            maps = F.normalize(at_least_float32(maps), dim=1)
            scores = self.class_embeds.to(maps.dtype) @ maps.flatten(2)
        return scores.unflatten(2, maps.shape[2:])
