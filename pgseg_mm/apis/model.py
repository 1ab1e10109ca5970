"""From a config and a checkpoint to a model that predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
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

from pgseg_mm.checkpoints.carried_config import config_of
from pgseg_mm.checkpoints.fitting import load_fitting
from pgseg_mm.checkpoints.other_settings import warn_of_other_settings
from pgseg_mm.cli.checkpoint_sources import NO_CHECKPOINT
from pgseg_mm.cli.config_files import CONFIG_SUFFIXES, read_config_file
from pgseg_mm.cli.run_configs import require_own_weights
from pgseg_mm.messages import shown
from pgseg_mm.models import OpenVocabSegmentor, PGSegClassifier, PGSegRetriever
from pgseg_mm.serialization.loading import CheckpointError, load_checkpoint

ModelSource = Any
"""Path of a config, a config (``Config`` or ``ConfigDict``), a model, or a checkpoint: whatever
:func:`.locate` takes and no config is called."""


NO_SEGMENTORS = (PGSegClassifier, PGSegRetriever)
"""Models of words that give no class maps."""


def load_model(
    model: ModelSource,
    weights: str | PathLike[str] | None,
    device: str | None,
    trust: bool,
    allow_partial: bool = False,
) -> tuple[OpenVocabSegmentor, Config | ConfigDict]:
    """Build a model, if need be, and load its weights.

    Args:
        model: Path of a config, a config, a model, or a checkpoint that carries its config.
        weights: Checkpoint; a model may do without, and it is left out where it is the first.
            ``'none'`` takes those that the encoders of a config start with.
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
        TypeError: The model is no PGSeg or other open-vocabulary segmentor.
        ValueError: There are no weights for the model of a config, or the config has no model.
    """
    cfg: Config | ConfigDict
    if isinstance(model, nn.Module):
        built = model.module if is_model_wrapper(model) else model
        cfg = getattr(built, 'cfg', None) or ConfigDict()
    else:
        carried = model is None or weights is None
        cfg, weights = config_and_weights(model, weights, trust)
        with _carried(weights) if carried else nullcontext():
            built = build_model(cfg, pretrained=weights == NO_CHECKPOINT)
        device = device or get_device()
    if not isinstance(built, OpenVocabSegmentor) or isinstance(built, NO_SEGMENTORS):
        raise TypeError(
            'PGSegInferencer asks a model for words, so it needs a PGSeg, got '
            f"{type(built).__name__}; mmseg's MMSegInferencer takes other models."
        )
    if weights not in (None, NO_CHECKPOINT):
        load_weights(built, weights, trust, allow_partial)
    return built if device is None else built.to(device), cfg


@contextmanager
def _carried(weights: Any) -> Iterator[None]:
    """Name the checkpoint where the config that it carries describes no model."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # a stranger's config may fail in any way
        raise CheckpointError(
            f'{shown(weights)} carries a config of which no model can be made '
            f'({type(error).__name__}: {shown(error)}); give a config of yours'
        ) from error


def config_and_weights(
    config: ModelSource = None, weights: str | PathLike[str] | None = None, trust: bool = False
) -> tuple[Config | ConfigDict, str | PathLike[str]]:
    """Config and checkpoint of what was given, of which one may be enough.

    A config that is given wins. Where none is, it is the one that the checkpoint carries.

    Args:
        config: Path of a config, a config, or a checkpoint, if it is the only one given; ``None``
            for the config that ``weights`` carry.
        weights: Checkpoint: whatever :func:`.locate` takes, or ``'none'`` beside a config.
        trust: Whether to run code that the checkpoint may hold; that of its config is never run.

    Returns:
        The config and the checkpoint.

    Raises:
        FileNotFoundError: There is no such config or checkpoint.
        CheckpointError: The checkpoint cannot be read, or carries no config to be used unasked.
        TypeError: This is neither a path nor a config.
        ValueError: There are no weights for the model of a config, or the config has no model.
    """
    if weights is None and is_checkpoint(config):
        config, weights = None, config
    if weights is None:
        if config is not None:
            as_config(config)
        raise ValueError(
            'The model of a config needs weights: give a checkpoint as weights, or '
            f'{NO_CHECKPOINT!r} for those that its encoders start with.'
        )
    return config_of(weights, trust) if config is None else as_config(config), weights


def is_checkpoint(source: Any) -> bool:
    """Whether the only thing that was given is a checkpoint, and not a config."""
    return isinstance(source, (str, PathLike)) and Path(source).suffix not in CONFIG_SUFFIXES


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


def build_model(cfg: Config | ConfigDict, pretrained: bool = False) -> nn.Module:
    """The model of a config, in evaluation mode.

    Args:
        cfg: A config with ``model``.
        pretrained: Whether to load the weights that the encoders start with, for a model that gets
            no others.

    Raises:
        ValueError: If these are wanted, and an encoder starts without any.
    """
    parts = {
        name: {**part, 'pretrained': None}
        for name, part in cfg.model.items()
        if isinstance(part, Mapping) and 'pretrained' in part and not pretrained
    }
    if pretrained:
        require_own_weights(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmseg')):
        return MODELS.build({**cfg.model, **parts}).eval()


def build_with_weights(
    cfg: Config | ConfigDict,
    weights: str | PathLike[str],
    trust: bool = False,
    allow_partial: bool = False,
) -> nn.Module:
    """The model of a config, in evaluation mode, with the weights of a checkpoint.

    Args:
        cfg: A config with ``model``.
        weights: As :func:`load_weights` takes it, or ``'none'`` for what the encoders start with.
        trust: As :func:`load_weights` has it.
        allow_partial: As :func:`load_weights` has it.

    Raises:
        Exception: As :func:`build_model` and :func:`load_weights`.
    """
    model = build_model(cfg, pretrained=weights == NO_CHECKPOINT)
    if weights != NO_CHECKPOINT:
        load_weights(model, weights, trust, allow_partial)
    return model


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
    warn_of_other_settings(model, checkpoint, path)
    meta = checkpoint.extras.get('meta')
    dataset_meta = meta.get('dataset_meta') if isinstance(meta, Mapping) else None
    if isinstance(dataset_meta, Mapping):
        model.dataset_meta = dict(dataset_meta)
