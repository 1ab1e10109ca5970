from collections.abc import Sequence

import torch
from mmengine.structures import BaseDataElement
from mmseg.registry import MODELS
from torch import Tensor

from ..inference.class_embedder import ClassEmbedder
from ..inference.finite_images import check_finite
from ..segmentors import PGSeg

CAPTION_ALONE = ('{}',)
"""Prompt templates that leave a text as it is."""


@MODELS.register_module()
class PGSegRetriever(PGSeg):
    """PGSeg that embeds whole images and their captions, for retrieval.

    Both are embedded as they are compared in training. Weights, training and arguments are those of
    :class:`PGSeg`. An image and its captions are a sample: :class:`ImageTextRetrievalDataset`, or
    one of mmpretrain's sets for retrieval. Measure it by :class:`ImageTextRetrievalMetric`.
    """

    needs_words = False
    """Whether a vocabulary must be known before a prediction."""

    def predict(
        self,
        inputs: Tensor | list[Tensor],
        data_samples: list[BaseDataElement] | None = None,
    ) -> list[BaseDataElement]:
        """Embed images and captions.

        Args:
            inputs: (B, 3, H, W), or B images (3, H, W) of any sizes.
            data_samples: One for each image, with its captions as ``text``: a list, or one alone.

        Returns:
            The samples with ``image_embeds`` (D,) and ``text_embeds`` (T, D), normalised.

        Raises:
            ValueError: If an image has NaN or infinite values, or no caption.
        """
        captions = [_captions_of(sample) for sample in data_samples or ()]
        if data_samples is None or not all(captions):
            raise ValueError(
                'retrieval needs the captions of each image as `text` of its sample; use '
                "ImageTextRetrievalDataset, and mmpretrain.PackInputs with algorithm_keys=('text',)"
            )
        check_finite(inputs, data_samples)
        embeds = self._forward(inputs)
        texts = self.embed_captions([caption for some in captions for caption in some])
        for sample, image, own in zip(
            data_samples, embeds, texts.split([len(some) for some in captions]), strict=True
        ):
            sample.set_field(image, 'image_embeds')
            sample.set_field(own, 'text_embeds')
        return data_samples

    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """Embed captions as they are, without a prompt template.

        Args:
            captions: T captions.

        Returns:
            (T, D), normalised.
        """
        embedder = ClassEmbedder(self.text_encoder, self.decode_head.text_projector, CAPTION_ALONE)
        return embedder.embed_words(captions)

    def _forward(
        self, inputs: Tensor | list[Tensor], data_samples: list[BaseDataElement] | None = None
    ) -> Tensor:
        """Embeddings of images, (B, D), normalised."""
        batches = [inputs] if isinstance(inputs, Tensor) else [image[None] for image in inputs]
        return torch.cat(
            [self.decode_head.embed_images(self.extract_feat(batch)) for batch in batches]
        )


def _captions_of(sample: BaseDataElement) -> list[str]:
    text = sample.get('text')
    return [text] if isinstance(text, str) else list(text or ())
