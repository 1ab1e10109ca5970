"""What a test pipeline has done to an image, and what an image must be to be encoded."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def without_padding(image: Tensor, meta: dict[str, Any]) -> Tensor:
    """An image without what was padded.

    Args:
        image: (..., H, W).
        meta: Its meta information, with mmseg's ``img_padding_size`` or ``padding_size``, if any:
            pixels on the left, right, top and bottom.
    """
    left, right, top, bottom = meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
    return image[..., top : image.shape[-2] - bottom, left : image.shape[-1] - right]


def flip_direction(meta: dict[str, Any]) -> str | None:
    """How an image was mirrored: ``'horizontal'``, ``'vertical'``, ``'diagonal'`` or ``None``.

    Args:
        meta: Its meta information, with mmcv's ``flip`` and ``flip_direction``, if any.
    """
    return (meta.get('flip_direction') or 'horizontal') if meta.get('flip') else None


def with_a_patch(image: Tensor, patch_size: int) -> Tensor:
    """Stretch an image that has no room for a patch, and leave all others as they are.

    Args:
        image: (C, H, W).
        patch_size: Side of a patch in pixels.
    """
    size = [max(length, patch_size) for length in image.shape[1:]]
    if size == list(image.shape[1:]):
        return image
    return F.interpolate(image[None], size=size, mode='bilinear', align_corners=False)[0]


def nearest_pixels(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (..., H, W) to (..., height, width) by their nearest pixels."""
    y, x = (
        ((torch.arange(new, device=maps.device) + 0.5) * (old / new)).long()
        for old, new in zip(maps.shape[-2:], size, strict=True)
    )
    return maps[..., y[:, None], x]
