"""Loading of images from files and shards."""

from __future__ import annotations

from typing import Any

import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmseg.registry import TRANSFORMS

from pgseg_mm.files.image_files import (
    UnreadableImage,
    decode_image,
    is_truncated_jpeg,
    read_image_file,
)
from pgseg_mm.integration import replace_transform

__all__ = ['DecodeImage', 'LoadKnownImage', 'UnreadableImage', 'is_truncated_jpeg']


@replace_transform('LoadImageFromFile')
class LoadKnownImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile``, which reads images of the known formats only.

    The image is as viewers show it: turned as its EXIF orientation says, the first picture of an
    animation, in colour without transparency, and of 8 bits. See
    :func:`pgseg_mm.files.image_files.decode_image` for formats and limits.

    Required keys: ``img_path``, or the file itself as ``img_bytes``, with its ``img_header`` where
    that has been read; optionally ``max_pixels``, by default ``MAX_IMAGE_PIXELS``. Added keys:
    ``img``, uint8 BGR of shape ``(H, W, 3)``, ``img_shape`` and ``ori_shape``.

    Args:
        **kwargs: Those of mmcv's ``LoadImageFromFile``, such as ``imdecode_backend``.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Add the image to the results.

        Raises:
            UnreadableImage: The image cannot be decoded, is cut off, or has too many pixels.
            OSError: The system cannot read the file.
        """
        try:
            img = self._read(results)
        except (FileNotFoundError, UnreadableImage):
            if self.ignore_empty:
                return None
            raise
        if self.to_float32:
            img = img.astype(np.float32)
        results['img'] = img
        results['img_shape'] = results['ori_shape'] = img.shape[:2]
        return results

    def _read(self, results: dict[str, Any]) -> np.ndarray:
        image, header = results.get('img_bytes'), results.get('img_header')
        path = results.get('img_path')
        if image is None and self.file_client_args is not None:
            image = fileio.FileClient.infer_client(self.file_client_args, path).get(path)
        elif image is None:
            image = read_image_file(results['img_path'], self.backend_args)
        where = 'The image' if path is None else str(path)
        most = results.get('max_pixels')
        return decode_image(image, where, self.color_type, self.imdecode_backend, most, header)


@TRANSFORMS.register_module()
class DecodeImage(LoadKnownImage):
    """The same, for images of shards, too.

    Required keys: ``img_bytes``, or else ``img_path``. Added keys: ``img``, uint8 BGR of shape
    ``(H, W, 3)``, ``img_shape`` and ``ori_shape``.

    Args:
        **kwargs: Those of mmcv's ``LoadImageFromFile``, such as ``imdecode_backend``.
    """
