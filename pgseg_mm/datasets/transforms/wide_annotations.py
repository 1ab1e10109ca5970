"""Label maps with more than 255 classes."""

from __future__ import annotations

from typing import Any

import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

LARGEST_LABEL = 65535


@TRANSFORMS.register_module()
class LoadWideAnnotations(LoadAnnotations):
    """Load label maps of up to 65536 labels; mmseg's loader casts them to 8 bits.

    Required keys: ``seg_map_path``, ``reduce_zero_label``, ``seg_fields`` and optionally
    ``label_map``, which mmseg's data sets give. Added key: ``gt_seg_map``, uint16 of shape
    ``(H, W)``.

    Args:
        ignore_index: Label that is ignored, in the files and in the result. With
            ``reduce_zero_label`` of the data set 0 becomes this label, and this label stays.
        rgb: Whether the files are RGB images with the label red + 256 * green, as ImageNet-S has
            them; otherwise they have one channel of 8 or 16 bits.
        backend_args: Arguments of mmengine's file backend.
        imdecode_backend: Decoder of mmcv.

    Raises:
        ValueError: ``ignore_index`` is not from 0 to 65535.

    Examples:
        >>> test_pipeline = [
        ...     dict(type='LoadImageFromFile'),
        ...     dict(type='LoadWideAnnotations', rgb=True, ignore_index=1000),
        ...     dict(type='PackSegInputs')]
    """

    def __init__(
        self,
        ignore_index: int = LARGEST_LABEL,
        rgb: bool = False,
        backend_args: dict | None = None,
        imdecode_backend: str = 'pillow',
    ) -> None:
        super().__init__(backend_args=backend_args, imdecode_backend=imdecode_backend)
        if not 0 <= ignore_index <= LARGEST_LABEL:
            raise ValueError(f'ignore_index must be from 0 to {LARGEST_LABEL}, got {ignore_index}')
        self.ignore_index = ignore_index
        self.rgb = rgb

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the label map, if there is one: mmseg's ``inference_model`` has none."""
        return super().transform(results) if 'seg_map_path' in results else results

    def _load_seg_map(self, results: dict[str, Any]) -> None:
        """Add the label map to the results.

        Raises:
            ValueError: The file has other channels than expected, or labels over 65535.
        """
        path = results['seg_map_path']
        image = mmcv.imfrombytes(
            fileio.get(path, backend_args=self.backend_args),
            flag='unchanged',
            backend=self.imdecode_backend,
        )
        labels = self._decode(image, path)
        if results['reduce_zero_label']:
            ignored = (labels == 0) | (labels == self.ignore_index)
            labels = np.where(ignored, np.uint16(self.ignore_index), labels - 1)
        if results.get('label_map') is not None:
            table = np.arange(LARGEST_LABEL + 1, dtype=np.uint16)
            table[list(results['label_map'])] = list(results['label_map'].values())
            labels = table[labels]
        results['gt_seg_map'] = labels
        results['seg_fields'].append('gt_seg_map')

    def _decode(self, image: np.ndarray, path: str) -> np.ndarray:
        """Labels, uint16, of an image."""
        channels = 1 if image.ndim == 2 else image.shape[2]
        if channels != (3 if self.rgb else 1):
            expected = (
                'an RGB image with the label red + 256 * green'
                if self.rgb
                else 'one channel of 8 or 16 bits'
            )
            raise ValueError(
                f'{path} has {channels} channels, expected {expected}; set rgb={not self.rgb} of '
                'LoadWideAnnotations, or convert the file'
            )
        if self.rgb:  # mmcv decodes as BGR
            return image[..., 2].astype(np.uint16) + 256 * image[..., 1].astype(np.uint16)
        if image.max(initial=0) > LARGEST_LABEL:
            raise ValueError(
                f'{path} has the label {image.max()}; labels over {LARGEST_LABEL} cannot be loaded'
            )
        return image.reshape(image.shape[:2]).astype(np.uint16)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(ignore_index={self.ignore_index}, rgb={self.rgb}, '
            f"imdecode_backend='{self.imdecode_backend}', backend_args={self.backend_args})"
        )
