"""Resizing of images of any shape."""

from __future__ import annotations

from typing import Any

from mmcv.image import rescale_size
from mmcv.transforms import Resize
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class ResizeAnyShape(Resize):
    """mmcv's ``Resize`` that takes long and thin images, too.

    With ``keep_ratio`` a side that would be shorter than a pixel is one pixel long, where mmcv's
    fails. All other images are resized as by mmcv's.

    Args:
        **kwargs: Those of mmcv's ``Resize``.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Resize the image, and label maps if there are any."""
        height, width = results['img'].shape[:2]
        if not self.keep_ratio or self.scale is None:
            return super().transform(results)
        size = rescale_size((width, height), tuple(self.scale))
        if min(size) > 0:
            return super().transform(results)
        exact = Resize(
            scale=tuple(max(side, 1) for side in size),
            backend=self.backend,
            interpolation=self.interpolation,
        )
        return exact.transform(results)
