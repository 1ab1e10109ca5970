"""Groups and prototypes of whole images as maps, for pictures."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..decode_heads import PGSegHead
from ..layers import EncoderStage, GroupFeatures

MAX_AREA = 1 << 20
"""Pixels of an image that are encoded at most; a larger image is shrunk."""
MIN_SIDE = 64
"""No side is shrunk to less."""
MAX_MAP_SIDE = 640
"""Longer side of the maps at most."""


@torch.no_grad()
def group_maps(backbone: nn.Module, head: PGSegHead, image: Tensor) -> dict[str, Tensor]:
    """Assign the pixels of a whole image to groups and prototypes.

    A pixel's prototype is the nearest one of the patch, by the softmax over prototypes
    (docs/method.md, 1.3); from the second stage on, whose tokens are groups, it is that of the
    patch's groups.

    Args:
        backbone: Image encoder in evaluation mode.
        head: The head that says how pixels are assigned.
        image: (3, H, W), normalised.

    Returns:
        Indices (1, h, w), int16, at the image's size or, for large images, below it:
        ``stage_0`` and ``stage_{last}`` are groups, ``prototypes_0`` to ``prototypes_{last}``
        prototypes, where there are any.
    """
    map_size = _shrink(image.shape[-2:], MAX_MAP_SIDE / max(image.shape[-2:]), 1)
    image = _bounded(image)
    stages = [
        m for m in backbone.modules() if isinstance(m, EncoderStage) and m.grouping is not None
    ]
    makers = [_with_maps(stage.npr_prototypes or stage.prototypes) for stage in stages]
    with _inputs_of(makers) as tokens:
        features: GroupFeatures = backbone(image[None])
    names = {f'stage_{stage}': (features, stage) for stage in (0, len(features.assignments) - 1)}
    for stage, x in tokens.items():
        by_prototypes = makers[stage].assign(x, features.prototypes[stage])
        below = features.assignments[:stage]
        names[f'prototypes_{stage}'] = (
            features._replace(assignments=(*below, by_prototypes)),
            stage,
        )
    return {
        name: head.assign_pixels(assigned, map_size, stage).to(torch.int16)
        for name, (assigned, stage) in names.items()
    }


def _with_maps(maker: Any) -> Any:
    """Prototypes of somebody's own that do not say which is a token's have no maps."""
    return maker if hasattr(maker, 'assign') else None


@contextmanager
def _inputs_of(modules: Sequence[nn.Module | None]) -> Iterator[dict[int, Tensor]]:
    """Collect what modules get within the context and this thread, by their index."""
    seen: dict[int, Tensor] = {}
    thread = threading.get_ident()

    def note(index: int, tokens: Tensor) -> None:
        if threading.get_ident() == thread:  # the model may predict in others, too
            seen[index] = tokens

    def listen(index: int, module: nn.Module):
        return module.register_forward_pre_hook(lambda _, args: note(index, args[0]))

    handles = [listen(i, module) for i, module in enumerate(modules) if module is not None]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _bounded(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    size = _shrink((height, width), (MAX_AREA / (height * width)) ** 0.5, MIN_SIDE)
    if size == (height, width):
        return image
    return F.interpolate(image[None], size=size, mode='bilinear', antialias=True)[0]


def _shrink(size: Sequence[int], factor: float, smallest: int) -> tuple[int, int]:
    height, width = (max(round(side * min(factor, 1)), min(side, smallest)) for side in size)
    return height, width
