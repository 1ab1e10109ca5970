"""The releases' own configs: in parity files as JSON, in checkpoints as OmegaConf objects."""

from collections.abc import Mapping
from typing import Any

from pgseg_mm import limits
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.placeholders import ForeignObject

from .architecture import Architecture, default_heads

_ANY = object()
# Settings of the model: None where a value is read, else the only values that this project has.
_IMAGE: dict[str, Any] = {
    **dict.fromkeys(
        (
            'img_size',
            'patch_size',
            'in_chans',
            'embed_dim',
            'embed_factors',
            'depths',
            'num_heads',
            'num_group_tokens',
            'num_output_groups',
            'mlp_ratio',
            'type',
        )
    ),
    # these act in training only
    **dict.fromkeys(
        ('drop_rate', 'attn_drop_rate', 'drop_path_rate', 'return_attn_o', 'use_checkpoint'), _ANY
    ),
    'qkv_bias': (True,),
    'qk_scale': (None,),
    'hard_assignment': (True,),
    'pos_embed_type': ('simple',),
}
_TEXT: dict[str, Any] = {
    **dict.fromkeys(('context_length', 'width', 'layers', 'vocab_size', 'heads')),
    **dict.fromkeys(('type', 'use_checkpoint'), _ANY),
}
_MODEL: dict[str, Any] = {
    **dict.fromkeys(('img_encoder', 'text_encoder', 'output_dim')),
    # these act in training only; a temperature is a weight
    **dict.fromkeys(
        (
            'type',
            'contrast_temperature',
            'multi_label',
            'multi_label_loss_weight',
            'share_temperature',
        ),
        _ANY,
    ),
    'proj_num_layers': (2,),
}


def architecture_of_release_config(config: Mapping[str, Any]) -> Architecture:
    """Architecture that the model's part of a release's config describes.

    Args:
        config: ``img_encoder``, ``text_encoder`` and ``output_dim``, in the release's terms.

    Raises:
        CheckpointError: If a setting is unknown or has a value that this project has not.
    """
    _check(config, _MODEL, 'config')
    image, text = config.get('img_encoder', {}), config.get('text_encoder', {})
    _check(image, _IMAGE, 'config.img_encoder')
    _check(text, _TEXT, 'config.text_encoder')
    try:
        return _architecture(image, text, config.get('output_dim', 256))
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f'the config describes no model: {error}') from error


def _architecture(image: Mapping, text: Mapping, output_dims: int) -> Architecture:
    depths = _integers(image.get('depths', (6, 3, 3)))
    width, patch = int(image.get('embed_dim', 384)), int(image.get('patch_size', 16))
    factors = image.get('embed_factors') or [1] * len(depths)
    if len(factors) != len(depths):
        raise ValueError(f'embed_factors {factors} are not one for each of {len(depths)} stages')
    dims = tuple(int(width * factor) for factor in factors)
    if dims[0] != width:
        raise ValueError(f'the first of embed_factors must be 1, got {factors[0]}')
    heads = image.get('num_heads', tuple(map(default_heads, dims)))
    tokens = _integers(image.get('num_group_tokens', (64, 8, 0)))
    size = image.get('img_size', 224)
    height, breadth = (size, size) if isinstance(size, int) else _integers(size)
    text_width = int(text.get('width', 256))
    return Architecture(
        img_size=(height // patch * patch, breadth // patch * patch),
        patch_size=patch,
        in_channels=int(image.get('in_chans', 3)),
        embed_dims=dims,
        depths=depths,
        num_heads=(heads,) * len(depths) if isinstance(heads, int) else _integers(heads),
        num_group_tokens=tokens,
        # what is named for the last stage, which has no groups, plays no part
        num_output_groups=_integers(image.get('num_output_groups', (64, 8)))[: len(depths) - 1],
        mlp_ratio=float(image.get('mlp_ratio', 4)),
        prototypes='GroupViT' not in image.get('type', 'PGSeg'),
        vocab_size=int(text.get('vocab_size', 49408)),
        context_length=int(text.get('context_length', 77)),
        text_dims=text_width,
        text_layers=int(text.get('layers', 12)),
        text_heads=int(text.get('heads', default_heads(text_width))),
        output_dims=int(output_dims),
    )


def _integers(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _check(config: Any, known: Mapping[str, Any], where: str) -> None:
    if not isinstance(config, Mapping):
        raise CheckpointError(f'{where} must be a mapping, got {config!r}')
    for key, value in config.items():
        if key not in known:
            raise CheckpointError(f'{where}.{key} = {value!r} is not understood')
        if isinstance(known[key], tuple) and value not in known[key]:
            raise CheckpointError(f'{where}.{key} = {value!r}: this project has {known[key][0]!r}')


def plain_config(config: Any) -> Any:
    """A config of a checkpoint as plain dicts, lists and values.

    Args:
        config: Such values, or the placeholder of an OmegaConf object.

    Raises:
        CheckpointError: If it contains itself, or has more entries than a config has.
    """
    left = limits.CONFIG_ENTRIES

    def plain(value: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise CheckpointError('the config in the checkpoint has too many entries')
        value = _content(value)
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    try:
        return plain(config)
    except RecursionError as error:
        raise CheckpointError('the config in the checkpoint contains itself') from error


def _content(value: Any) -> Any:
    """What the placeholder of an OmegaConf object has as its value; other values are their own."""
    for _ in range(limits.CHECKPOINT_DEPTH):
        if not isinstance(value, ForeignObject):
            return value
        inner = value.state if isinstance(value.state, dict) else {}
        if key := next((key for key in ('_content', '_val') if key in inner), None):
            value = inner[key]
        elif _are_pairs(value.entries):
            return dict(value.entries)
        else:
            return value
    raise CheckpointError('the config in the checkpoint contains itself')


def _are_pairs(entries: list) -> bool:
    return bool(entries) and all(
        isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str)
        for entry in entries
    )


def heads_of_release_config(config: Any) -> tuple[int, ...] | None:
    """Attention heads of each stage in the config of a release's checkpoint, if it tells them."""
    for path in (('model', 'img_encoder', 'num_heads'), ('img_encoder', 'num_heads')):
        value = plain_config(config)
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, list) and value and all(type(n) is int and n > 0 for n in value):
            return tuple(value)
    return None
