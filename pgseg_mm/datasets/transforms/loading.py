"""Loading of images from files and shards."""

from __future__ import annotations

from typing import Any

import cv2
import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmseg.registry import TRANSFORMS

START_OF_IMAGE, START_OF_SCAN, END_OF_IMAGE = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'


@TRANSFORMS.register_module()
class DecodeImage(LoadImageFromFile):
    """Decode an image, from a shard or from a file; mmcv's ``LoadImageFromFile`` reads files only.

    Truncated JPEG files are refused with any backend: OpenCV before 5 fills what is missing with
    grey.

    Required keys: ``img_bytes``, or else ``img_path``. Added keys: ``img``, uint8 BGR of shape
    ``(H, W, 3)``, ``img_shape`` and ``ori_shape``.

    Args:
        **kwargs: Those of mmcv's ``LoadImageFromFile``, such as ``imdecode_backend``.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Add the image to the results.

        Raises:
            OSError: The image cannot be decoded, or is cut off.
        """
        image = results.get('img_bytes')
        if image is None:
            image = fileio.get(results['img_path'], backend_args=self.backend_args)
        img = None
        if not is_truncated_jpeg(image):
            img = self._decode(image)
        if img is None:
            if self.ignore_empty:
                return None
            raise OSError(f'{results.get("img_path")} cannot be decoded, or is cut off.')
        if self.to_float32:
            img = img.astype(np.float32)
        results['img'] = img
        results['img_shape'] = results['ori_shape'] = img.shape[:2]
        return results

    def _decode(self, image: bytes) -> np.ndarray | None:
        backend, flag = self.imdecode_backend, self.color_type
        if backend != 'pillow' or flag != 'color':
            return mmcv.imfrombytes(image, flag=flag, backend=backend)
        # As BGR, mmcv gives a view with negative strides, which costs the transforms more.
        img = mmcv.imfrombytes(image, flag=flag, channel_order='rgb', backend=backend)
        return cv2.cvtColor(img, cv2.COLOR_RGB2BGR)


def is_truncated_jpeg(image: bytes) -> bool:
    """Whether a file is a JPEG image without an end behind the last scan.

    Args:
        image: The file, of any format.
    """
    if not image.startswith(START_OF_IMAGE):
        return False
    end = image.rfind(END_OF_IMAGE)  # an embedded preview has one as well, before the scans
    return end < 0 or image.find(START_OF_SCAN, end) >= 0
