"""From a config and a checkpoint to a model that predicts."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.model import is_model_wrapper
from mmengine.registry import DefaultScope
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS
from torch import nn

from pgseg_mm.checkpoints.fitting import load_fitting
from pgseg_mm.cli.config_files import read_config_file
from pgseg_mm.models import PGSeg
from pgseg_mm.serialization.loading import load_checkpoint

ModelSource = Any
"""Path of a config, a config (``Config`` or ``ConfigDict``), or a model."""


def load_model(
    model: ModelSource,
    weights: str | PathLike[str] | None,
    device: str | None,
    trust: bool,
    allow_partial: bool = False,
) -> tuple[PGSeg, Config | ConfigDict]:
    """Build a model, if need be, and load its weights.

    Args:
        model: Path of a config, a config, or a model.
        weights: Checkpoint; a model may do without.
        device: Where to run it. By default an accelerator if there is one; a model stays where it
            is.
        trust: Whether to run code that the checkpoint may hold.
        allow_partial: Whether to take one that lacks entries of the model.

    Returns:
        The model in evaluation mode, unless it was given as one, and the config, which is empty
        where none is known.

    Raises:
        FileNotFoundError: There is no such config or checkpoint.
        CheckpointError: The checkpoint cannot be read, or does not fit the model.
        TypeError: The model is not a PGSeg.
        ValueError: There are no weights for the model of a config, or the config has no model.
    """
    if isinstance(model, nn.Module):
        built = model.module if is_model_wrapper(model) else model
        cfg = getattr(built, 'cfg', None) or ConfigDict()
    else:
        cfg = as_config(model)
        if weights is None:
            raise ValueError('The model of a config needs weights: give a checkpoint as weights.')
        built = build_model(cfg)
        device = device or get_device()
    if not isinstance(built, PGSeg):
        raise TypeError(
            'PGSegInferencer asks a model for words, so it needs a PGSeg, got '
            f"{type(built).__name__}; mmseg's MMSegInferencer takes other models."
        )
    if weights is not None:
        load_weights(built, weights, trust, allow_partial)
    return built if device is None else built.to(device), cfg


def as_config(config: str | PathLike[str] | Config | ConfigDict) -> Config | ConfigDict:
    """Read a config if it is a path.

    Raises:
        FileNotFoundError: There is no such config.
        TypeError: This is neither a path nor a config.
        ValueError: The config has no model.
    """
    if isinstance(config, (str, PathLike)):
        if not Path(config).is_file():
            raise FileNotFoundError(f'config file not found: {config}')
        config = read_config_file(config)
    if not isinstance(config, (Config, ConfigDict)):
        raise TypeError(
            f'The model must be the path of a config, a config or a model, got {type(config)}.'
        )
    if 'model' not in config:
        raise ValueError('The config has no model; give one of those in configs/pgseg.')
    return config


def build_model(cfg: Config | ConfigDict) -> nn.Module:
    """The model of a config, in evaluation mode and without the weights that training began with.

    Args:
        cfg: A config with ``model``.
    """
    parts = {
        name: {**part, 'pretrained': None}
        for name, part in cfg.model.items()
        if isinstance(part, Mapping) and 'pretrained' in part
    }
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmseg')):
        return MODELS.build({**cfg.model, **parts}).eval()


def load_weights(
    model: BaseSegmentor,
    path: str | PathLike[str],
    trust: bool = False,
    allow_partial: bool = False,
) -> None:
    """Load a checkpoint into a model, with the classes that it names.

    Args:
        model: The model.
        path: Checkpoint of mmengine, of this project's converters, or in safetensors.
        trust: Whether to run code that the checkpoint may hold.
        allow_partial: Whether to take one that lacks entries of the model.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It cannot be read, or does not fit the model.
    """
    checkpoint = load_checkpoint(str(path), trust)
    load_fitting(model, checkpoint.state_dict, path, 'predict', allow_partial)
    meta = checkpoint.extras.get('meta')
    dataset_meta = meta.get('dataset_meta') if isinstance(meta, Mapping) else None
    if isinstance(dataset_meta, Mapping):
        model.dataset_meta = dict(dataset_meta)
