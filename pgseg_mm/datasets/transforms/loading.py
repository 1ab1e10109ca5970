"""Loading of images from files and shards."""

from __future__ import annotations

from typing import Any

import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class DecodeImage(LoadImageFromFile):
    """Decode an image, from a shard or from a file; mmcv's ``LoadImageFromFile`` reads files only.

    Pillow decodes by default, because it refuses a truncated file: versions of OpenCV before 5 fill
    what is missing with grey. OpenCV is a quarter faster.

    Required keys: ``img_bytes``, or else ``img_path``. Added keys: ``img``, uint8 BGR of shape
    ``(H, W, 3)``, ``img_shape`` and ``ori_shape``.

    Args:
        imdecode_backend: Any that :func:`mmcv.imfrombytes` knows.
        **kwargs: Other arguments of mmcv's ``LoadImageFromFile``.
    """

    def __init__(self, imdecode_backend: str = 'pillow', **kwargs: Any) -> None:
        super().__init__(imdecode_backend=imdecode_backend, **kwargs)

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Add the image to the results.

        Raises:
            OSError: The image cannot be decoded.
        """
        image = results.get('img_bytes')
        if image is None:
            image = fileio.get(results['img_path'], backend_args=self.backend_args)
        img = mmcv.imfrombytes(image, flag=self.color_type, backend=self.imdecode_backend)
        if img is None:
            if self.ignore_empty:
                return None
            raise OSError(f'{results.get("img_path")} cannot be decoded as an image.')
        if self.to_float32:
            img = img.astype(np.float32)
        results['img'] = img
        results['img_shape'] = results['ori_shape'] = img.shape[:2]
        return results
