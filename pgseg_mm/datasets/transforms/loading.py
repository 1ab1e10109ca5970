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


class UnreadableImage(OSError):
    """An image that cannot be decoded.

    Args:
        where: The file.
        reason: What the file is or has, such as 'is cut off'.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f'{where} {reason}.')
        self.where = where
        self.reason = reason

    def __reduce__(self) -> tuple:
        return type(self), (self.where, self.reason)


@TRANSFORMS.register_module()
class DecodeImage(LoadImageFromFile):
    """Decode an image, from a shard or from a file; mmcv's ``LoadImageFromFile`` reads files only.

    The image is as viewers show it: turned as its EXIF orientation says, the first picture of an
    animation, in colour without transparency, and of 8 bits. What the backend cannot decode is left
    to Pillow. Truncated JPEG files are refused with any backend: OpenCV before 5 fills what is
    missing with grey.

    Required keys: ``img_bytes``, or else ``img_path``. Added keys: ``img``, uint8 BGR of shape
    ``(H, W, 3)``, ``img_shape`` and ``ori_shape``.

    Args:
        **kwargs: Those of mmcv's ``LoadImageFromFile``, such as ``imdecode_backend``.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Add the image to the results.

        Raises:
            UnreadableImage: The image cannot be decoded, or is cut off.
        """
        image = results.get('img_bytes')
        if image is None:
            image = fileio.get(results['img_path'], backend_args=self.backend_args)
        try:
            img = self._decode(image, str(results.get('img_path', 'The image')))
        except UnreadableImage:
            if self.ignore_empty:
                return None
            raise
        if self.to_float32:
            img = img.astype(np.float32)
        results['img'] = img
        results['img_shape'] = results['ori_shape'] = img.shape[:2]
        return results

    def _decode(self, image: bytes, where: str) -> np.ndarray:
        if not image:
            raise UnreadableImage(where, 'is empty')
        if is_truncated_jpeg(image):
            raise UnreadableImage(where, 'is cut off: the end of the JPEG image is missing')
        reason = 'of no known format'
        for backend in dict.fromkeys((self.imdecode_backend, 'pillow')):
            try:
                img = self._decode_by(backend, image)
            except MemoryError:
                raise
            except Exception as error:  # OpenCV and each of Pillow's formats fail in their own ways
                reason = str(error) or type(error).__name__
                continue
            if img is not None:
                return img
        raise UnreadableImage(where, f'cannot be decoded, or is cut off: {reason}')

    def _decode_by(self, backend: str, image: bytes) -> np.ndarray | None:
        flag = self.color_type
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
