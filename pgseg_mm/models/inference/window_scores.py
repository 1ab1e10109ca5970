from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..decode_heads import PGSegHead
from ..layers import GroupFeatures
from .sliding_window import Window
from .stitching import StitchedScores, stitch


def score_windows(
    encode: Callable[[Tensor], GroupFeatures],
    head: PGSegHead,
    images: Sequence[Tensor],
    windows: Sequence[Sequence[Window]],
    batch_size: int | None = None,
    thresholds: Sequence[float] | None = None,
) -> list[StitchedScores]:
    """Class scores of images, from windows that cover them.

    Args:
        encode: From (N, 3, h, w) windows of one size to their groups.
        head: The head, which knows the classes.
        images: B images (3, H, W) of any sizes.
        windows: Those of each image.
        batch_size: Windows of one size, of all images, that are encoded at a time; ``None`` for all
            of them.
        thresholds: Background thresholds in place of the head's.

    Returns:
        B results of the images' sizes.
    """
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
            features = encode(torch.stack([_crop(images[i], windows[i][j]) for i, j in chunk]))
            groups.update(zip(chunk, head.assign_pixels(features, size), strict=True))
            classified = head.classify_groups(features, thresholds)
            scores.update(zip(chunk, classified, strict=True))
    return [
        stitch(
            (image.shape[-2], image.shape[-1]),
            image_windows,
            [groups[i, j] for j in range(len(image_windows))],
            [scores[i, j] for j in range(len(image_windows))],
        )
        for i, (image, image_windows) in enumerate(zip(images, windows, strict=True))
    ]


def _crop(image: Tensor, window: Window) -> Tensor:
    return image[:, window.top : window.bottom, window.left : window.right]
