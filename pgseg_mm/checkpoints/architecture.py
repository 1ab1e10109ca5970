import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from os import PathLike
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from torch import nn

from pgseg_mm.cli.config_files import ConfigError, read_config_file
from pgseg_mm.messages import first_line
from pgseg_mm.serialization.loading import CheckpointError

Shape = tuple[int, ...]
PROTOTYPES = 'NonLearnablePrototypes'
CLUSTERING = {'num_iters': 10, 'temperature': None, 'start': 'mu', 'balance': None}
"""Settings of published prototypes that weights do not tell, and that decide predictions."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of a PGSeg or GroupViT; the defaults are those of the published PGSeg."""

    img_size: tuple[int, int] = (224, 224)
    """Height and width in pixels that the position embedding is made for."""
    patch_size: int = 16
    in_channels: int = 3
    embed_dims: tuple[int, ...] = (384, 384, 384)
    """Channels of each stage."""
    depths: tuple[int, ...] = (6, 3, 3)
    num_heads: tuple[int, ...] = (6, 6, 6)
    num_group_tokens: tuple[int, ...] = (64, 8, 0)
    num_output_groups: tuple[int, ...] = (64, 8)
    mlp_ratio: float = 4.0
    prototypes: bool = True
    """Whether there are prototypes and NPR; without them it is a GroupViT."""
    prototype_channels: int = 4096
    """Hidden width of the projection of the reconstruction."""
    assign_scale: float = 1.0
    """Factor of the assignment's logits, which other code bases do not have."""
    vocab_size: int = 49408
    context_length: int = 77
    text_dims: int = 256
    text_layers: int = 12
    text_heads: int = 4
    output_dims: int = 256
    """Channels of the space that images and texts share."""
    hidden_channels: int = 4096
    """Hidden width of the two projectors."""

    def model_cfg(self) -> dict:
        """Config of our model, to be built by mmseg's registry."""
        return {
            'type': 'mmseg.PGSeg',
            'backbone': {
                'type': 'mmseg.PGSegViT',
                'img_size': self.img_size,
                'patch_size': self.patch_size,
                'in_channels': self.in_channels,
                'embed_dims': self.embed_dims,
                'depths': self.depths,
                'num_heads': self.num_heads,
                'num_group_tokens': self.num_group_tokens,
                'num_output_groups': self.num_output_groups,
                'mlp_ratio': self.mlp_ratio,
                'prototypes': {
                    'type': 'mmseg.NonLearnablePrototypes',
                    'hidden_channels': self.prototype_channels,
                }
                if self.prototypes
                else None,
                'assign_scale': self.assign_scale,
                'out_type': 'groups',
            },
            'text_encoder': {
                'type': 'mmseg.PGSegTextTransformer',
                'vocab_size': self.vocab_size,
                'context_length': self.context_length,
                'embed_dims': self.text_dims,
                'num_layers': self.text_layers,
                'num_heads': self.text_heads,
            },
            'decode_head': {
                'type': 'mmseg.PGSegHead',
                'in_channels': self.embed_dims[-1],
                'channels': self.output_dims,
                'text_channels': self.text_dims,
                'hidden_channels': self.hidden_channels,
                'loss_contrastive': {'type': 'mmseg.ImageTextContrastiveLoss'},
                'loss_npr': {'type': 'mmseg.NPRLoss'} if self.prototypes else None,
                'loss_decode': {'type': 'mmseg.CrossEntropyLoss', 'avg_non_ignore': True},
            },
        }

    def build(self) -> BaseModule:
        """Our model, with random weights; the global random state stays as it was.

        Raises:
            CheckpointError: If no such model can be built.
        """
        with torch.random.fork_rng(devices=[]):
            try:
                return MODELS.build(self.model_cfg())
            except (ValueError, RuntimeError) as error:
                raise CheckpointError(
                    f'no model can be built as the checkpoint describes it: {error}'
                ) from error

    def differences(self, other: 'Architecture') -> list[str]:
        """What is not as in ``other``, in words."""
        return [
            f'{field.name} {getattr(self, field.name)} instead of {getattr(other, field.name)}'
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's meta."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Any) -> 'Architecture | None':
        """What :meth:`as_dict` gave; ``None`` if ``values`` is something else."""
        expected = asdict(PUBLISHED)
        if not isinstance(values, dict) or values.keys() != expected.keys():
            return None
        for name, default in expected.items():
            value = values[name]
            if type(value) is not type(default):
                return None
            if isinstance(value, tuple) and not all(type(item) is int for item in value):
                return None
        return Architecture(**values)


PUBLISHED = Architecture()


@lru_cache(maxsize=8)
def model_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Names and shapes of our state dict."""
    return shapes_of(architecture.build())


def shapes_of(model: nn.Module) -> dict[str, Shape]:
    """Names and shapes of a model's state dict."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def default_heads(width: int) -> int:
    """Width / 64, as published; fewer, so that they divide the width, for odd sizes."""
    return next(n for n in range(max(width // 64, 1), 0, -1) if width % n == 0)


def infer_architecture(
    shape_of: Callable[[str], Shape | None],
    num_heads: Sequence[int] | None = None,
    text_heads: int | None = None,
    img_size: tuple[int, int] | None = None,
) -> Architecture:
    """Architecture that the shapes in a state dict tell.

    What is not found in it keeps the published size, to be reported as missing by the conversion.

    Args:
        shape_of: Shape of the entry that our state dict has under a name, ``None`` if it is absent.
        num_heads: Attention heads of each stage, which shapes do not tell; width / 64 by default.
        text_heads: Attention heads of the text encoder; width / 64 by default.
        img_size: Height and width that the position embedding is made for; a square by default.

    Raises:
        CheckpointError: If there are no stages, or if their sizes contradict each other.
    """
    depths = _stage_depths(shape_of)
    if not depths:
        raise CheckpointError('no image encoder with stages of blocks is in it')
    stages = [f'backbone.stages.{i}' for i in range(len(depths))]

    def size(name: str, axis: int, default: int) -> int:
        shape = shape_of(name)
        return default if shape is None or len(shape) <= axis else shape[axis]

    dims = tuple(size(f'{s}.blocks.0.norm1.weight', 0, PUBLISHED.embed_dims[0]) for s in stages)
    tokens = tuple(size(f'{s}.group_token', 1, 0) for s in stages)
    patch = size('backbone.patch_embed.weight', 2, PUBLISHED.patch_size)
    text_dims = size('text_encoder.positional_embedding', 1, PUBLISHED.text_dims)
    hidden = size('decode_head.image_projector.fc1.weight', 0, PUBLISHED.hidden_channels)
    layers = _count(shape_of, 'text_encoder.blocks.{}.norm1.weight')
    _check_known(len(depths), num_heads, text_heads, img_size)
    return Architecture(
        img_size=img_size or _square_image(size('backbone.pos_embed', 1, 196), patch),
        patch_size=patch,
        in_channels=size('backbone.patch_embed.weight', 1, 3),
        embed_dims=dims,
        depths=depths,
        num_heads=tuple(map(default_heads, dims)) if num_heads is None else tuple(num_heads),
        num_group_tokens=tokens,
        num_output_groups=tuple(
            size(f'{s}.grouping.mlp_inter.fc2.weight', 0, count)
            for s, count in zip(stages[:-1], tokens, strict=False)
        ),
        mlp_ratio=size(f'{stages[0]}.blocks.0.mlp.fc1.weight', 0, 4 * dims[0]) / max(dims[0], 1),
        prototypes=any(shape_of(f'{s}.prototypes.mu') is not None for s in stages),
        prototype_channels=size(f'{stages[0]}.reconstruction.fc1.weight', 0, hidden),
        vocab_size=size('text_encoder.token_embedding.weight', 0, PUBLISHED.vocab_size),
        context_length=size('text_encoder.positional_embedding', 0, PUBLISHED.context_length),
        text_dims=text_dims,
        text_layers=layers or PUBLISHED.text_layers,
        text_heads=default_heads(text_dims) if text_heads is None else text_heads,
        output_dims=size('decode_head.image_projector.fc2.weight', 0, PUBLISHED.output_dims),
        hidden_channels=hidden,
    )


def _check_known(
    num_stages: int,
    num_heads: Sequence[int] | None,
    text_heads: int | None,
    img_size: tuple[int, int] | None,
) -> None:
    for known in (num_heads or (), (text_heads or 1,), img_size or ()):
        if not all(type(number) is int and number > 0 for number in known):
            raise CheckpointError(f'heads and sizes must be positive numbers, got {known}')
    if num_heads is not None and len(num_heads) != num_stages:
        raise CheckpointError(
            f'heads for {len(num_heads)} stages are known, {tuple(num_heads)}, but the checkpoint '
            f'has {num_stages} stages'
        )


def _count(shape_of: Callable[[str], Shape | None], pattern: str) -> int:
    count = 0
    while shape_of(pattern.format(count)) is not None:
        count += 1
    return count


def _stage_depths(shape_of: Callable[[str], Shape | None]) -> tuple[int, ...]:
    depths: list[int] = []
    while depth := _count(shape_of, f'backbone.stages.{len(depths)}.blocks.{{}}.norm1.weight'):
        depths.append(depth)
    return tuple(depths)


def _square_image(num_patches: int, patch_size: int) -> tuple[int, int]:
    side = math.isqrt(num_patches)
    if side * side != num_patches:
        raise CheckpointError(
            f'its position embedding has {num_patches} patches, which are no square; give the '
            'config of the model, which says how they lie'
        )
    return side * patch_size, side * patch_size


def model_of_config(path: str | PathLike[str]) -> tuple[BaseModule, Architecture]:
    """Build the model of a config file and tell its architecture.

    Args:
        path: Config file of mmengine; it is run, as configs are.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it cannot be read or built, or if its model is no PGSeg.
    """
    try:
        cfg = read_config_file(path)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if 'model' not in cfg:
        raise CheckpointError(f'{path} has no model')
    scope = DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmseg')
    with torch.random.fork_rng(devices=[]), scope:
        try:
            model = MODELS.build(cfg.model)
        except Exception as error:  # classes of any package may fail in any way
            raise CheckpointError(
                f'the model of {path} cannot be built: {first_line(error)}'
            ) from error
    return model, architecture_of_model(model, path)


def check_hard(hard: bool) -> None:
    """Refuse a model of which an architecture would not tell all.

    Raises:
        CheckpointError: If its tokens are pooled by the soft assignment.
    """
    if not hard:
        raise CheckpointError(
            'its tokens are pooled by the soft assignment (hard_assign=False), which no other code '
            'base has: it predicts with its own config alone'
        )


def check_prototypes(settings: Mapping[str, Any]) -> None:
    """Refuse prototypes of which an architecture would not tell all.

    Args:
        settings: Those of the prototypes of a backbone, or some of them, with their ``type``.

    Raises:
        CheckpointError: If they are clustered otherwise than published, which shows in predictions.
    """
    other = [
        f'{k}={settings[k]!r}'
        for k in CLUSTERING
        if settings.get(k, CLUSTERING[k]) != CLUSTERING[k]
    ]
    if (kind := str(settings.get('type', PROTOTYPES)).rpartition('.')[2]) != PROTOTYPES:
        other = [f'type={kind!r}', *other]
    if other:
        raise CheckpointError(
            f'its prototypes have {", ".join(other)}, which no other code base has: it predicts '
            'with its own config alone'
        )


def architecture_of_model(model: nn.Module, path: str | PathLike[str]) -> Architecture:
    """Architecture of one of our models.

    Args:
        model: The model.
        path: Its config, for messages.

    Raises:
        CheckpointError: If it is no PGSeg.
    """
    shapes = shapes_of(model)
    try:
        backbone: Any = model.backbone
        heads = [stage.blocks[0].attn.num_heads for stage in backbone.stages]
        assign = backbone.stages[0].grouping.assign
        grid = backbone.grid_size
    except (AttributeError, TypeError, IndexError) as error:
        raise CheckpointError(
            f'the model of {path} is no PGSeg: it has no PGSegViT as its backbone'
        ) from error
    check_hard(assign.hard)
    for stage in backbone.stages:
        if (prototypes := getattr(stage, 'prototypes', None)) is not None:
            settings = {k: getattr(prototypes, k, v) for k, v in CLUSTERING.items()}
            check_prototypes({'type': type(prototypes).__name__, **settings})
    text_blocks: Any = getattr(getattr(model, 'text_encoder', None), 'blocks', None)
    side = backbone.patch_size
    architecture = infer_architecture(
        shapes.get,
        heads,
        text_blocks[0].attn.num_heads if text_blocks else None,
        (grid[0] * side, grid[1] * side),
    )
    scale = round(assign.scale * architecture.embed_dims[0] ** 0.5, 9)
    return replace(architecture, assign_scale=scale)
