"""Packing of image-text pairs for the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS
from mmseg.structures import SegDataSample

from ..sampling.sample_key import READ_RECORD


@TRANSFORMS.register_module()
class PackImageTextInputs(BaseTransform):
    """Pack an image and its tokenised caption; the last transform of a training pipeline.

    Required keys: ``img`` of shape ``(H, W, 3)`` and ``tokens`` of shape ``(L,)``, or
    ``(1 + K, L)`` with K prompts.

    Args:
        meta_keys: Keys to keep as meta information of the data sample; those that the results do
            not hold are left out. The record of what reading the sample took is always kept.
    """

    def __init__(
        self, meta_keys: Sequence[str] = ('img_path', 'caption', 'ori_shape', 'img_shape')
    ) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pack the results.

        Returns:
            ``inputs``, the image as ``(3, H, W)`` in its own dtype; ``tokens`` as they came;
            ``data_samples``, a :class:`SegDataSample` with the meta information.

        Raises:
            KeyError: The image or the tokens are missing.
        """
        if 'img' not in results:
            raise KeyError(
                "PackImageTextInputs needs 'img' in the results; put LoadImageFromFile before it."
            )
        if 'tokens' not in results:
            raise KeyError(
                "PackImageTextInputs needs 'tokens' in the results; put TokenizeCaption before it."
            )
        image = np.atleast_3d(results['img'])
        # (H, W) as mmseg has it: transforms of mmpretrain leave (H, W, 3) behind.
        results = dict(results, img_shape=image.shape[:2])
        sample = SegDataSample()
        for key in (*self.meta_keys, READ_RECORD):
            if key in results:  # not copied as `metainfo=` would: nobody else has the results
                sample.set_field(results[key], key, field_type='metainfo')
        return dict(
            inputs=torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            tokens=results['tokens'],
            data_samples=sample,
        )

    def __repr__(self) -> str:
        return f'{type(self).__name__}(meta_keys={self.meta_keys})'
