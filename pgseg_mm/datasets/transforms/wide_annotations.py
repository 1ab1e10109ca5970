"""Label maps: those of up to 255 classes, and those of more."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS
from numpy.typing import NDArray

from pgseg_mm.files.image_files import decode_image, read_image_file
from pgseg_mm.integration import replace_transform

LARGEST_LABEL = 65535
IGNORED = 255
"""Label that mmseg's data sets ignore."""


@replace_transform('LoadAnnotations')
class LoadLabelMap(LoadAnnotations):
    """mmseg's ``LoadAnnotations``, which reads label maps of the known formats only.

    Required keys: ``seg_map_path``, ``reduce_zero_label``, ``seg_fields`` and optionally
    ``label_map``, which mmseg's data sets give. Added key: ``gt_seg_map``, uint8 of shape
    ``(H, W)``.

    Args:
        **kwargs: Those of mmseg's ``LoadAnnotations``.
    """

    def _load_seg_map(self, results: dict[str, Any]) -> None:
        """Add the label map to the results.

        Raises:
            UnreadableImage: The file is no image, damaged, or too large.
            ValueError: ``reduce_zero_label`` differs from the data set's, or a label does not fit
                into 8 bits.
        """
        labels = read_label_map(results['seg_map_path'], self.imdecode_backend, self.backend_args)
        if self.reduce_zero_label not in (None, results['reduce_zero_label']):
            raise ValueError(
                f'LoadAnnotations has reduce_zero_label={self.reduce_zero_label}, its data set '
                f'{results["reduce_zero_label"]}; set it in the data set only.'
            )
        labels = as_bytes(labels.squeeze() if labels.ndim > 2 else labels)
        results['gt_seg_map'] = relabel(labels, results, IGNORED)
        results['seg_fields'].append('gt_seg_map')


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
            UnreadableImage: The file is no image, damaged, or too large.
            ValueError: The file has other channels than expected, or labels over 65535.
        """
        path = results['seg_map_path']
        image = read_label_map(path, self.imdecode_backend, self.backend_args)
        results['gt_seg_map'] = relabel(self._decode(image, path), results, self.ignore_index)
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
        if image.min(initial=0) < 0 or (image != np.floor(image)).any():
            raise ValueError(f'{path} has labels that are negative, or no whole numbers')
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


def read_label_map(path: str, backend: str, backend_args: dict | None) -> NDArray[Any]:
    """The values of a label map, as its file has them.

    Args:
        path: The file.
        backend: Decoder of mmcv.
        backend_args: Arguments of mmengine's file backend.

    Raises:
        UnreadableImage: The file is no image, damaged, or too large.
    """
    content = read_image_file(path, backend_args)
    return decode_image(content, str(path), flag='unchanged', backend=backend)


def as_bytes(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Labels as 8 bits, where -1 and 65535, the largest of 16 bits, become 255, too.

    Args:
        labels: Values of a label map, of any type.

    Raises:
        ValueError: A label is no whole number, or is another one than from 0 to 255.
    """
    if labels.dtype == np.uint8:
        return labels
    with np.errstate(invalid='ignore'):
        narrow = np.where((labels == -1) | (labels == LARGEST_LABEL), IGNORED, labels)
        narrow = narrow.astype(np.int64).astype(np.uint8)
    wrong = (narrow != labels) & (labels != -1) & (labels != LARGEST_LABEL)
    if wrong.any():
        raise ValueError(
            f'it has the label {labels[wrong].flat[0]}, and labels of 8 bits are whole numbers '
            'from 0 to 255; for more classes, load it with LoadWideAnnotations'
        )
    return narrow


def relabel(labels: NDArray[Any], results: dict[str, Any], ignored: int) -> NDArray[Any]:
    """Labels as the data set wants them.

    Args:
        labels: (H, W), uint8 or uint16.
        results: With ``reduce_zero_label``: whether each label is one less, and 0 is ignored; and
            optionally ``label_map``: new labels by old ones.
        ignored: The label that is ignored, which stays.
    """
    if results['reduce_zero_label']:
        none = (labels == 0) | (labels == ignored)
        labels = np.where(none, labels.dtype.type(ignored), labels - 1)
    if results.get('label_map') is not None:
        table = np.arange(np.iinfo(labels.dtype).max + 1)
        known = {old: new for old, new in results['label_map'].items() if old < len(table)}
        table[list(known)] = list(known.values())
        labels = table.astype(labels.dtype)[labels]
    return labels
