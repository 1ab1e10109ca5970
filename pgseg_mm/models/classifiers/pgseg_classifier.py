from typing import Any

import torch
from mmpretrain.structures import DataSample
from mmseg.registry import MODELS
from torch import Tensor

from ..inference.finite_images import check_finite
from ..segmentors import PGSeg


@MODELS.register_module()
class PGSegClassifier(PGSeg):
    """PGSeg that names whole images instead of pixels, for mmpretrain's data sets and metrics.

    An image is compared with the classes by the mean of its final tokens, as it is with its caption
    in training. Weights are those of :class:`PGSeg`, name by name.

    Args:
        **kwargs: Arguments of :class:`PGSeg`; the head's ``background_threshold`` and ``decision``
            of ``test_cfg`` must be ``None``.

    Raises:
        ValueError: If there is a background threshold, or a rule for pixels.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.decode_head.with_background:
            raise ValueError(
                'whole images are no background; set background_threshold=None in decode_head'
            )
        if self.decision is not None:
            raise ValueError('test_cfg decision is for pixels; set decision=None for whole images')

    def predict(
        self, inputs: Tensor | list[Tensor], data_samples: list[DataSample] | None = None
    ) -> list[DataSample]:
        """Classify images by the vocabulary.

        Args:
            inputs: (B, 3, H, W), or B images (3, H, W) of any sizes.
            data_samples: mmpretrain's samples, one for each image.

        Returns:
            The samples with ``pred_score`` (K,), which sums to 1, and ``pred_label`` (1,).

        Raises:
            ValueError: If an image has NaN or infinite values.
            RuntimeError: If no vocabulary is known.
        """
        if data_samples is None:
            data_samples = [DataSample() for _ in inputs]
        check_finite(inputs, data_samples)
        scores = self._forward(inputs).softmax(dim=-1)
        for sample, score in zip(data_samples, scores, strict=True):
            sample.set_pred_score(score).set_pred_label(score.argmax(dim=0))
        return data_samples

    def _forward(
        self, inputs: Tensor | list[Tensor], data_samples: list[DataSample] | None = None
    ) -> Tensor:
        """Class logits (B, K)."""
        self._embed_vocabulary()
        batches = [inputs] if isinstance(inputs, Tensor) else [image[None] for image in inputs]
        logits = [self.decode_head.classify_images(self.extract_feat(batch)) for batch in batches]
        return torch.cat(logits)
