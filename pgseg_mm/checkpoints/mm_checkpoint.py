"""This project's own checkpoints: what converted ones carry, and what trained ones tell."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pgseg_mm.serialization.loading import Checkpoint, CheckpointError
from pgseg_mm.serialization.saving import save_atomically

from ..version import __version__
from .architecture import Architecture, check_hard, check_prototypes, infer_architecture
from .config_text import read_config_text
from .conversion import Conversion
from .published_config import published_config
from .release import check_origin

META_KEY = 'pgseg_mm'
"""Where a converted checkpoint's meta says what it was made from."""
GUESSED_HEADS = 'taken as width / 64: weights do not tell them'
"""Where heads are from if nothing tells their number."""


def save_mm(path: str | Path, conversion: Conversion, source: str, keys: list[str]) -> None:
    """Write a converted checkpoint as mmengine loads it, with the config that it fits.

    Args:
        path: File to write.
        conversion: Our state dict and what goes with it.
        source: Name of the file that it was made from.
        keys: Names in that file, in its order.
    """
    origin = {
        'version': __version__,
        'source': source,
        'architecture': conversion.architecture.as_dict(),
        'inert': conversion.inert,
        'keys': keys,
    }
    cfg = published_config(conversion.architecture).pretty_text
    content = {'state_dict': conversion.state_dict, 'meta': {'cfg': cfg, META_KEY: origin}}
    save_atomically(path, content)


def origin_of(checkpoint: Checkpoint) -> tuple[dict[str, Tensor] | None, list[str]]:
    """Inert entries and the order of names that a converted checkpoint carries.

    Returns:
        The entries, ``None`` if the checkpoint was not made by a converter, and the names.
    """
    origin = _mapping(_mapping(checkpoint.extras.get('meta')).get(META_KEY))
    inert, keys = origin.get('inert'), origin.get('keys')
    if not isinstance(inert, Mapping) or not all(isinstance(v, Tensor) for v in inert.values()):
        return None, []
    return dict(inert), [k for k in keys if isinstance(k, str)] if isinstance(keys, list) else []


def architecture_of(checkpoint: Checkpoint) -> tuple[Architecture, str]:
    """Architecture of one of our checkpoints.

    Sizes are those of its weights. What weights do not tell, such as heads, is taken from what the
    converter noted, or from the config that MMEngine's Runner saved as text; the text is not run.

    Returns:
        The architecture, and where the heads are from, in words.

    Raises:
        CheckpointError: If it is the checkpoint of something else.
    """
    check_origin(checkpoint.state_dict, 'mm')

    def shape_of(name: str) -> tuple[int, ...] | None:
        value = checkpoint.state_dict.get(name)
        return None if value is None else tuple(value.shape)

    meta = _mapping(checkpoint.extras.get('meta'))
    noted = Architecture.from_dict(_mapping(meta.get(META_KEY)).get('architecture'))
    if noted is not None:
        told = infer_architecture(shape_of, noted.num_heads, noted.text_heads, noted.img_size)
        return replace(told, assign_scale=noted.assign_scale), 'as the converter noted'
    model = model_of_text(meta.get('cfg'))
    backbone = _mapping(model.get('backbone'))
    if not backbone:
        return infer_architecture(shape_of), GUESSED_HEADS
    check_hard(backbone.get('hard_assign', True))
    check_prototypes(_mapping(backbone.get('prototypes')))
    stages = len(infer_architecture(shape_of, img_size=(1, 1)).depths)
    heads, size = backbone.get('num_heads', 6), backbone.get('img_size')
    text_heads = _mapping(model.get('text_encoder')).get('num_heads')
    told = infer_architecture(
        shape_of,
        [heads] * stages if isinstance(heads, int) else heads,
        text_heads if isinstance(text_heads, int) else None,
        tuple(size) if isinstance(size, (list, tuple)) and len(size) == 2 else None,
    )
    scale = backbone.get('assign_scale', 1)
    if not isinstance(scale, (int, float)):
        raise CheckpointError(f'assign_scale must be a number, got {scale!r}')
    return replace(told, assign_scale=float(scale)), "from the checkpoint's config"


def model_of_text(text: Any) -> Mapping:
    """The model of a config's text, empty if that is none."""
    try:
        return _mapping(read_config_text(text).values.get('model'))
    except CheckpointError:
        return {}  # what weights do not tell is taken as published, and the report says so


def _mapping(value: Any) -> Mapping:
    return value if isinstance(value, Mapping) else {}
