from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers.precision import at_least_float32
from .dense_scores import join_windows, padding_of
from .image_geometry import nearest_pixels
from .pamr import PAMR
from .pixel_classes import ImageScores
from .sliding_window import Window
from .stitching import stitch

Place = tuple[int, int]
"""Number of an image, and of a window in it."""


class Encoded(NamedTuple):
    """N windows of one size that were encoded together."""

    places: list[Place]
    """Which ones."""
    size: tuple[int, int]
    """Their height and width in pixels."""
    features: Any
    """What the encoder makes of them."""


def score_windows(
    encode: Callable[[Tensor], Any],
    head: Any,
    images: Sequence[Tensor],
    windows: Sequence[Sequence[Window]],
    batch_size: int | None = None,
    thresholds: Sequence[float] | None = None,
    divisor: int = 1,
    direct: bool = False,
    pamr: PAMR | None = None,
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
        direct: As :func:`join_windows` has it.
        pamr: A refinement of each window's scores, before they are averaged.

    Returns:
        B results of the images' sizes.

    Raises:
        ValueError: If the head scores pixels and aligns corners, which windows of a grid cannot, or
            if it scores groups and these are to be resized without windows' pixels.
    """
    check_resizing(head, direct)
    groups: dict[Place, Tensor] = {}
    scores: dict[Place, Tensor] = {}
    for chunk in encode_windows(encode, images, windows, batch_size, divisor):
        if head.scores_pixels:
            classified = head.dense_scores(chunk.features, thresholds)
        else:
            assigned = assign_windows(head, chunk, divisor)
            groups.update(zip(chunk.places, assigned, strict=True))
            classified = head.classify_groups(chunk.features, thresholds)
        scores.update(zip(chunk.places, classified, strict=True))
    own_groups = None if head.scores_pixels else groups
    return join_scores(images, windows, scores, own_groups, divisor, direct, pamr)


def check_resizing(head: Any, direct: bool = False) -> None:
    """Refuse a head whose scores cannot be resized as they shall be.

    Args:
        head: The head.
        direct: Whether its scores go from patches straight to the size of the result.

    Raises:
        ValueError: If it scores pixels and aligns corners, or scores groups that are to be resized
            from patches.
    """
    if direct and not head.scores_pixels:
        raise ValueError(
            "test_cfg resize='direct' resizes scores of patches, but this "
            f"{type(head).__name__} scores groups of pixels; set resize='image'"
        )
    if head.scores_pixels and getattr(head, 'align_corners', False):
        raise ValueError('scores of pixels are resized by align_corners=False, got True')


def encode_windows(
    encode: Callable[[Tensor], Any],
    images: Sequence[Tensor],
    windows: Sequence[Sequence[Window]],
    batch_size: int | None = None,
    divisor: int = 1,
) -> Iterator[Encoded]:
    """Encode windows of one size together; the arguments are those of :func:`score_windows`."""
    by_size: dict[tuple[int, int], list[Place]] = defaultdict(list)
    for i, image_windows in enumerate(windows):
        for j, window in enumerate(image_windows):
            by_size[window.size].append((i, j))
    for size, places in by_size.items():
        step = batch_size or len(places)
        for start in range(0, len(places), step):
            chunk = places[start : start + step]
            crops = torch.stack([crop(images[i], windows[i][j]) for i, j in chunk])
            yield Encoded(chunk, size, encode(_pad(crops, divisor)))


def assign_windows(head: Any, encoded: Encoded, divisor: int = 1) -> Tensor:
    """Group of each pixel of windows, (N, height, width), without what was padded."""
    height, width = encoded.size
    (top, bottom), (left, right) = (padding_of(side, divisor) for side in encoded.size)
    size = (top + height + bottom, left + width + right)
    groups = head.assign_pixels(encoded.features, size)
    return groups[:, top : top + height, left : left + width]


def join_scores(
    images: Sequence[Tensor],
    windows: Sequence[Sequence[Window]],
    scores: dict[Place, Tensor],
    groups: dict[Place, Tensor] | None,
    divisor: int = 1,
    direct: bool = False,
    pamr: PAMR | None = None,
) -> list[ImageScores]:
    """Scores of images from those of their windows.

    Args:
        images: B images (3, H, W).
        windows: Those of each image.
        scores: For each window the class scores of its groups (G, K), or of its patches (K, h, w)
            where there are no groups.
        groups: For each window the group of its pixels, (height, width).
        divisor: As :func:`score_windows` has it.
        direct: As :func:`score_windows` has it.
        pamr: As :func:`score_windows` has it.

    Returns:
        B results of the images' sizes.
    """
    results: list[ImageScores] = []
    for i, (image, own) in enumerate(zip(images, windows, strict=True)):
        size = (image.shape[-2], image.shape[-1])
        places = [(i, j) for j in range(len(own))]
        own_scores = [scores[place] for place in places]
        own_groups = None if groups is None else [groups[place] for place in places]
        if own_groups is not None and pamr is None:
            results.append(stitch(size, own, own_groups, own_scores))
            continue
        padded_to = divisor
        if pamr is not None:
            padded_to = divisor if own_groups is None else 1
            crops = [_pad(crop(image, window), padded_to) for window in own]
            own_scores = _refine(pamr, crops, own_scores, own_groups)
        results.append(join_windows(size, own, own_scores, padded_to, direct))
    return results


def _refine(
    pamr: PAMR, crops: Sequence[Tensor], scores: Sequence[Tensor], groups: Sequence[Tensor] | None
) -> list[Tensor]:
    """Refined maps (K, h, w) of windows: those of their patches, or of their groups' pixels."""
    if groups is None:
        pairs = zip(scores, crops, strict=True)
        return [pamr.refine_window(own, window) for own, window in pairs]
    refined = []
    for window, own, assigned in zip(crops, scores, groups, strict=True):
        # the mean of neighbours is linear, so groups' masks may be refined in place of classes
        labels = nearest_pixels(assigned, pamr.refined_size(window.shape[-2:]))
        of_groups = at_least_float32(own)
        masks = F.one_hot(labels, len(own)).permute(2, 0, 1).to(of_groups)
        masks = pamr.refine_window(masks, window)
        with torch.autocast(own.device.type, enabled=False):
            refined.append(torch.tensordot(of_groups, masks, ([0], [0])))
    return refined


def crop(maps: Tensor, window: Window) -> Tensor:
    """What of maps (..., H, W) lies in a window."""
    return maps[..., window.top : window.bottom, window.left : window.right]


def _pad(crops: Tensor, divisor: int) -> Tensor:
    vertical, horizontal = (padding_of(side, divisor) for side in crops.shape[-2:])
    return F.pad(crops, (*horizontal, *vertical)) if any(vertical + horizontal) else crops
