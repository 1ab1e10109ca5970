"""Whether the weights that parts of a model begin with are theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from torch import nn

from pgseg_mm.checkpoints.fitting import CONVERTERS, MIN_SHARE
from pgseg_mm.cli.parts import type_name
from pgseg_mm.errors import PreflightError

RESIZED = ('pos_embed', 'relative_position_bias_table', 'relative_position_index')
"""Ends of names whose shapes depend on the size of images."""


def check_pretrained(model: nn.Module) -> None:
    """Refuse ``init_cfg=dict(type='Pretrained')`` with a checkpoint of something else.

    mmengine loads what fits, and only logs what does not.

    Args:
        model: The model, not wrapped.

    Raises:
        PreflightError: If less than half of a part's entries are in its checkpoint.
    """
    for name, part, cfg in _pretrained_parts(model):
        try:
            content = CheckpointLoader.load_checkpoint(cfg['checkpoint'], 'cpu')
        except (OSError, ValueError) as error:
            raise PreflightError(f'init_cfg of {name or "the model"}: {error}') from error
        weights = content.get('state_dict', content) if isinstance(content, Mapping) else {}
        prefix = cfg.get('prefix') or ''
        prefix += '' if prefix.endswith('.') or not prefix else '.'
        own = part.state_dict()
        fitting = sum(
            _fits(key, value, weights.get(prefix + key, weights.get(f'module.{prefix}{key}')))
            for key, value in own.items()
        )
        if fitting < MIN_SHARE * len(own):
            raise PreflightError(
                f'init_cfg of {name or "the model"}: {cfg["checkpoint"]} has {fitting} of its '
                f'{len(own)} entries{f" below {prefix!r}" if prefix else ""}, so that it would '
                f'begin with random weights. {_advice(weights)}'
            )


def _pretrained_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module, Mapping[str, Any]]]:
    """Parts that begin with weights of a file, by the names that the file has.

    Others rename what they load, as mmseg's Swin does, or load it from an address.
    """
    for name, part in model.named_modules():
        cfgs = getattr(part, 'init_cfg', None) or []
        for cfg in [cfgs] if isinstance(cfgs, Mapping) else cfgs:
            plain = getattr(type(part), 'init_weights', None) is BaseModule.init_weights
            is_file = '://' not in str(cfg.get('checkpoint') or '://')
            if plain and is_file and type_name(cfg) in ('Pretrained', 'PretrainedInit'):
                yield name, part, cfg


def _fits(name: str, own: Any, given: Any) -> bool:
    shape = getattr(given, 'shape', None)
    return shape is not None and (shape == own.shape or name.endswith(RESIZED))


def _advice(weights: Mapping[str, Any]) -> str:
    names = [str(name) for name in (weights.get('model') or weights)]
    for prefix, origin, converter in CONVERTERS:
        if any(name.startswith(prefix) for name in names):
            return (
                f'It is a checkpoint of {origin}: convert it with '
                f'tools/model_converters/{converter}'
            )
    return 'Give a checkpoint of a model with this part, or take init_cfg away'
