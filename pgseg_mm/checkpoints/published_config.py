"""The config that published weights of any size are used with."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from pgseg_mm.cli.config_files import read_config_file
from pgseg_mm.serialization.loading import CheckpointError

from .architecture import Architecture
from .published import ROOTS

BASE = 'configs/_base_'


def published_config(architecture: Architecture) -> Config:
    """Config to predict with: the published model and protocol, in the sizes of an architecture.

    Args:
        architecture: Sizes of the model.

    Raises:
        CheckpointError: If the configs of this project are not there.
    """
    name = 'pgseg' if architecture.prototypes else 'groupvit'
    base = read_config_file(_find(f'models/{name}_vit-small-p16.py'))
    protocol = read_config_file(_find('benchmarks/published_protocol.py'))
    runtime = read_config_file(_find('default_runtime.py'))
    sizes = architecture.model_cfg()
    parts = {
        part: {key: value for key, value in sizes[part].items() if not _is_base_s(key)}
        for part in ('backbone', 'text_encoder', 'decode_head')
    }
    base.merge_from_dict({'model': parts})
    return Config(
        {
            'custom_imports': runtime.custom_imports,
            'default_scope': runtime.default_scope,
            'data_preprocessor': base.data_preprocessor,
            'model': base.model,
            'background_thresholds': base.background_thresholds,
            'test_pipeline': protocol.test_pipeline,
        }
    )


def _is_base_s(key: str) -> bool:
    """Whether a setting is no size, but as published."""
    return key == 'type' or key.startswith('loss_')


def _find(name: str) -> Path:
    """A config in the installed package, or in the repository that it lies in."""
    for root in ROOTS:
        if (path := root / BASE / name).is_file():
            return path
    raise CheckpointError(f'{BASE}/{name} is not in the package; install pgseg-mm anew')
