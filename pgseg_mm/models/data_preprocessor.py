"""From collated samples to what the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from pgseg_mm.text.tokenizer import trim_padding

from .batch_augments import RandomBatchAugment
from .inference.finite_images import check_finite


@MODELS.register_module()
class PGSegDataPreProcessor(BaseDataPreprocessor):
    """Move images and captions to the model's device, normalise and stack them.

    Args:
        mean: Mean of the R, G and B channel, on the scale of 0 to 255.
        std: Standard deviation of the R, G and B channel, on the same scale.
        bgr_to_rgb: Whether the images come in as BGR, as mmcv loads them.
        trim_text: Whether to cut the padding behind the batch's longest text: columns of nothing
            but zeros, which a text encoder can restore. The length kept is a multiple of 8, so that
            the shapes of successive batches seldom differ.
        prompts_apart: Whether prompts beside the captions are handed on apart and cut behind the
            longest of them, which a text encoder reads in less time; losses differ by rounding.
        non_blocking: Whether to copy pinned memory (``train_dataloader.pin_memory=True``) to the
            GPU without waiting for what it has yet to do.
        batch_augments: Arguments of :class:`RandomBatchAugment`, which joins images in training,
            such as ``dict(augments=[dict(type='PasteImages')], probs=[0.5])``. The loss must be one
            of regions, such as :class:`RegionTextContrast`.

    Raises:
        ValueError: ``mean`` or ``std`` does not have three values, or ``std`` is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        bgr_to_rgb: bool = True,
        trim_text: bool = True,
        non_blocking: bool = False,
        batch_augments: dict | None = None,
        prompts_apart: bool = False,
    ) -> None:
        super().__init__(non_blocking=non_blocking)
        if len(mean) != 3 or len(std) != 3:
            raise ValueError(
                f'mean and std must have three values each, for R, G and B; '
                f'got {len(mean)} and {len(std)}.'
            )
        if min(std) <= 0:
            raise ValueError(f'std must be positive, got {tuple(std)}.')
        self.bgr_to_rgb = bgr_to_rgb
        self.trim_text = trim_text
        self.prompts_apart = prompts_apart
        self.batch_augments = (
            None if batch_augments is None else RandomBatchAugment(**batch_augments)
        )
        self.register_buffer('mean', torch.tensor(mean).float().view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).float().view(3, 1, 1), persistent=False)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Prepare a batch.

        Args:
            data: ``inputs``, B images of shape ``(3, H, W)`` as a list or stacked; optionally
                ``tokens``, B captions of shape ``(L,)``, or ``(1 + K, L)`` with K prompts each, as
                a list or stacked, and ``data_samples``. Other keys are moved to the device.
            training: Whether the batch is for training, where all images must be of one size.

        Returns:
            ``inputs``, normalised RGB of shape ``(B, 3, H, W)``, or a list of ``(3, H_i, W_i)``
            where the sizes differ; ``data_samples``, a list or None; ``tokens``, int64 of shape
            ``(B, L')`` or ``(B, 1 + K, L')`` with L' <= L, if the batch has captions; with
            ``prompts_apart`` ``prompts`` of shape ``(B, K, L'')``, if it has some; and in training
            with ``batch_augments`` ``regions``, where the captions belong in the joined images,
            which may be fewer or more, and of another size.

        Raises:
            KeyError: ``data`` has no ``inputs``.
            ValueError: The batch is empty, an image does not have three channels, an image of
                floating-point type in host memory has NaN or infinite values, or the sizes differ
                in training.
        """
        if 'inputs' not in data:
            raise KeyError(f"The batch has no 'inputs', only {sorted(data)}.")
        data = dict(data)
        self._check_images(data['inputs'], data.get('data_samples'), training)
        if 'tokens' in data:
            data.update(self._stack_tokens(data['tokens']))
        data = self._move(data, training)
        data['inputs'] = self._normalise(data['inputs'])
        data.setdefault('data_samples', None)
        if training and self.batch_augments is not None:
            data['inputs'], data['regions'] = self.batch_augments(data['inputs'])
        return data

    def _move(self, data: dict[str, Any], training: bool) -> dict[str, Any]:
        samples = data.get('data_samples')
        if not training or not samples or any(sample.keys() for sample in samples):
            return self.cast_data(data)
        # moved, each of a thousand samples would be copied, though it has no tensor
        rest = {name: value for name, value in data.items() if name != 'data_samples'}
        return {**self.cast_data(rest), 'data_samples': samples}

    def _check_images(
        self,
        images: Tensor | Sequence[Tensor],
        data_samples: Sequence[SegDataSample] | None,
        training: bool,
    ) -> None:
        if len(images) == 0:
            raise ValueError('The batch holds no image; expected at least one.')
        if isinstance(images, Tensor):
            shapes = [tuple(images.shape[1:])]
        else:
            shapes = [tuple(image.shape) for image in images]
        for index, shape in enumerate(shapes):
            if len(shape) != 3 or shape[0] != 3:
                raise ValueError(
                    f'Image {index} of the batch has the shape {shape}; expected (3, H, W). '
                    "Load images in colour: LoadImageFromFile(color_type='color')."
                )
        sizes = sorted({shape[1:] for shape in shapes})
        if training and len(sizes) > 1:
            raise ValueError(
                f'The images of a training batch have different sizes (H, W): {sizes}; add a '
                'transform such as mmpretrain.RandomResizedCrop that brings them to one size.'
            )
        # Only on the host: reading values from a device would wait for it at every step.
        if images[0].device.type == 'cpu':
            check_finite(images, data_samples)

    def _stack_tokens(self, tokens: Tensor | Sequence[Tensor]) -> dict[str, Tensor]:
        # Before the move to the device: reading the longest length there would wait for the GPU.
        stacked = tokens if isinstance(tokens, Tensor) else torch.stack(list(tokens))
        texts = {'tokens': stacked}
        if self.prompts_apart and stacked.ndim == 3:
            texts = {'tokens': stacked[:, 0], 'prompts': stacked[:, 1:]}
        return {name: trim_padding(x) for name, x in texts.items()} if self.trim_text else texts

    def _normalise(self, images: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        if not isinstance(images, Tensor):
            if len({image.shape for image in images}) > 1:
                return [self._normalise_tensor(image) for image in images]
            images = torch.stack(list(images))
        return self._normalise_tensor(images)

    def _normalise_tensor(self, images: Tensor) -> Tensor:
        if self.bgr_to_rgb:
            images = images.flip(-3)
        return (images.float() - self.mean).div_(self.std)
