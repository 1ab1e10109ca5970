"""What a test pipeline has done to an image, and what an image must be to be encoded."""

import math
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


def whole_patches(size: tuple[int, int], patch_size: int, least: int = 0) -> tuple[int, int]:
    """The size of an image that patches fill: Trident's rule (arXiv 2411.09219, its code).

    The longer side becomes the next multiple of the patch, the other one keeps the proportion,
    rounded up to a multiple. An image whose sides are multiples stays as it is.

    Args:
        size: (height, width) in pixels.
        patch_size: Side of a patch in pixels.
        least: Smallest side of an image that is resized, such as that of a window.
    """
    if all(side % patch_size == 0 for side in size):
        return size
    longer = max(size)
    target = math.ceil(longer / patch_size) * patch_size
    height, width = (
        max(math.ceil(side * target // longer / patch_size) * patch_size, least) for side in size
    )
    return height, width


def bilinear_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image (C, H, W) to (C, height, width), bilinearly, if it is of another size."""
    if size == tuple(image.shape[1:]):
        return image
    return F.interpolate(image[None], size=size, mode='bilinear', align_corners=False)[0]


def nearest_pixels(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (..., H, W) to (..., height, width) by their nearest pixels."""
    y, x = (
        ((torch.arange(new, device=maps.device) + 0.5) * (old / new)).long()
        for old, new in zip(maps.shape[-2:], size, strict=True)
    )
    return maps[..., y[:, None], x]
