from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .dense_scores import join_windows, padding_of
from .pixel_classes import ImageScores
from .sliding_window import Window
from .stitching import stitch


def score_windows(
    encode: Callable[[Tensor], Any],
    head: Any,
    images: Sequence[Tensor],
    windows: Sequence[Sequence[Window]],
    batch_size: int | None = None,
    thresholds: Sequence[float] | None = None,
    divisor: int = 1,
) -> list[ImageScores]:
    """Class scores of images, from windows that cover them.

    Args:
        encode: From (N, 3, h, w) windows of one size to features.
        head: The head, which knows the classes. If it ``scores_pixels``, ``dense_scores`` tells
            those of patches; else ``classify_groups`` those of groups and ``assign_pixels`` the
            group of each pixel.
        images: B images (3, H, W) of any sizes.
        windows: Those of each image.
        batch_size: Windows of one size, of all images, that are encoded at a time; ``None`` for all
            of them.
        thresholds: Background thresholds in place of the head's.
        divisor: Windows are padded with zeros around to multiples of this, and what lies there is
            left out of the scores.

    Returns:
        B results of the images' sizes.

    Raises:
        ValueError: If the head scores pixels and aligns corners, which windows of a grid cannot.
    """
    if head.scores_pixels and getattr(head, 'align_corners', False):
        raise ValueError('scores of pixels are resized by align_corners=False, got True')
    by_size: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for i, image_windows in enumerate(windows):
        for j, window in enumerate(image_windows):
            by_size[window.size].append((i, j))
    groups: dict[tuple[int, int], Tensor] = {}
    scores: dict[tuple[int, int], Tensor] = {}
    for size, places in by_size.items():
        step = batch_size or len(places)
        for start in range(0, len(places), step):
            chunk = places[start : start + step]
            crops = torch.stack([_crop(images[i], windows[i][j]) for i, j in chunk])
            features = encode(_pad(crops, divisor))
            if head.scores_pixels:
                classified = head.dense_scores(features, thresholds)
            else:
                assigned = _assign(head, features, size, divisor)
                groups.update(zip(chunk, assigned, strict=True))
                classified = head.classify_groups(features, thresholds)
            scores.update(zip(chunk, classified, strict=True))
    results: list[ImageScores] = []
    for i, (image, own) in enumerate(zip(images, windows, strict=True)):
        size = (image.shape[-2], image.shape[-1])
        own_scores = [scores[i, j] for j in range(len(own))]
        if head.scores_pixels:
            results.append(join_windows(size, own, own_scores, divisor))
        else:
            results.append(stitch(size, own, [groups[i, j] for j in range(len(own))], own_scores))
    return results


def _crop(image: Tensor, window: Window) -> Tensor:
    return image[:, window.top : window.bottom, window.left : window.right]


def _pad(crops: Tensor, divisor: int) -> Tensor:
    vertical, horizontal = (padding_of(side, divisor) for side in crops.shape[-2:])
    return F.pad(crops, (*horizontal, *vertical)) if any(vertical + horizontal) else crops


def _assign(head: Any, features: Any, size: tuple[int, int], divisor: int) -> Tensor:
    """Group of each pixel of windows, (N, height, width), without what was padded."""
    (top, bottom), (left, right) = (padding_of(side, divisor) for side in size)
    height, width = size
    groups = head.assign_pixels(features, (top + height + bottom, left + width + right))
    return groups[:, top : top + height, left : left + width]
