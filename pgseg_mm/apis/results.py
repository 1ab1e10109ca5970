"""What the inferencer returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Segmentation:
    """An image as segments with names, or why there are none."""

    mask: NDArray[np.int32] | None
    """(H, W), for each pixel the index of its class in ``classes``. H and W are those of the image
    as viewers show it, turned by its EXIF orientation. ``None`` for an image that failed."""
    classes: tuple[str, ...]
    """Names of the classes; the first is 'background' if there is one."""
    name: str
    """Path of the image, or its number for an array."""
    path: str | None = None
    """Path of the image; ``None`` for an array."""
    scores: NDArray[np.float32] | None = None
    """On request, for each class the mean score of the pixels that it wins, (K,), or the score of
    each pixel, (K, H, W)."""
    groups: dict[int, NDArray[np.integer]] | None = None
    """On request, for the first and the last grouping stage (0, 1, ...) the group of each pixel,
    (h, w): at the image's size, or below it for large images."""
    picture: NDArray[np.uint8] | None = None
    """On request, the image with outlined segments and their names, RGB."""
    error: str | None = None
    """Why the image failed, or ``None``."""

    @property
    def areas(self) -> dict[str, float]:
        """Share of the image of each class that occurs, the largest first; they sum to 1."""
        if self.mask is None:
            return {}
        pixels = np.bincount(self.mask.reshape(-1), minlength=len(self.classes))
        order = np.argsort(-pixels, kind='stable')[: np.count_nonzero(pixels)]
        return {self.classes[label]: float(pixels[label] / self.mask.size) for label in order}


class Segmentations(list[Segmentation]):
    """One result for each image, in order; those of images that failed have an ``error``."""

    @property
    def failures(self) -> list[Segmentation]:
        """The results of images that failed."""
        return [result for result in self if result.error is not None]

    def summary(self) -> str:
        """How many images were segmented, how many failed, and why."""
        return summarise(len(self), self.failures)


def summarise(number: int, failures: Sequence[Segmentation]) -> str:
    """How many images were segmented, how many failed, and why, one failure a line.

    Args:
        number: Images in all.
        failures: Those of them that failed.
    """
    images = 'image' if number == 1 else 'images'
    if not failures:
        return f'{number} {images} segmented.'
    first = f'{number - len(failures)} of {number} {images} segmented, {len(failures)} failed:'
    return '\n  '.join([first, *(str(failure.error) for failure in failures)])
