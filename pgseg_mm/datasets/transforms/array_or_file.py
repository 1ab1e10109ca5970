from __future__ import annotations

from typing import Any

from mmseg.datasets.transforms import LoadImageFromNDArray as ArrayLoader

from pgseg_mm.integration import replace_transform

from .loading import LoadKnownImage


@replace_transform('LoadImageFromNDArray')
class LoadImageFromNDArray(ArrayLoader, LoadKnownImage):
    """mmseg's ``LoadImageFromNDArray``, which reads a file where it is given a path.

    mmseg's ``inference_model`` then takes arrays and paths in any order.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Take the image from ``img``, or read it from ``img_path``."""
        if results.get('img') is None:
            return LoadKnownImage.transform(self, results)
        return super().transform(results)
