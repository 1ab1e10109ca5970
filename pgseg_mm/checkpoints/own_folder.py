"""Models of this project as a folder for a hub: safetensors, and the config as text beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from safetensors.torch import save_file

from pgseg_mm.serialization.atomic_files import write_text
from pgseg_mm.serialization.loading import Checkpoint, CheckpointError, write_atomically

from ..version import __version__
from .architecture import Architecture
from .config_text import read_config_text
from .hub import MAX_TEXT_BYTES
from .hugging_face import CONFIG_NAME, CONFIG_TEXT_NAME, OWN_TYPE, WEIGHTS_NAME
from .mm_checkpoint import META_KEY
from .published_config import published_config

LIBRARY = 'pgseg_mm'
OF_THE_MACHINE = ('work_dir', 'load_from', 'resume', 'launcher')
"""Settings of a run that mean nothing elsewhere."""


def save_own_folder(folder: str | Path, checkpoint: Checkpoint, config: str) -> None:
    """Write weights, config and what else predictions depend on.

    Args:
        folder: Folder to write, made if need be.
        checkpoint: A checkpoint of this project.
        config: Text of its config, as :func:`flat_config` makes it.

    Raises:
        CheckpointError: If what the checkpoint says of its classes is not made of plain values.
    """
    folder = Path(folder)
    meta = _mapping(checkpoint.extras.get('meta'))
    about: dict[str, Any] = {
        'model_type': OWN_TYPE,
        'library_name': LIBRARY,
        'architectures': ['PGSeg'],
        f'{LIBRARY}_version': __version__,
    }
    origin = _mapping(meta.get(META_KEY))
    if 'architecture' in origin:
        about['converted'] = {key: origin.get(key) for key in ('source', 'architecture')}
    if 'dataset_meta' in meta:
        about['dataset_meta'] = meta['dataset_meta']
    try:
        text = json.dumps(about, indent=2, allow_nan=False) + '\n'
    except (TypeError, ValueError) as error:
        raise CheckpointError(f'meta of the checkpoint is not plain: {error}') from error
    # safetensors takes no tensors that share memory
    weights = {name: v.detach().clone().contiguous() for name, v in checkpoint.state_dict.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS_NAME, lambda p: save_file(weights, p, {'format': 'pt'}))
    write_text(folder / CONFIG_TEXT_NAME, config)
    write_text(folder / CONFIG_NAME, text)


def own_meta(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """The meta of a checkpoint that :func:`save_own_folder` wrote.

    Args:
        folder: The folder.
        about: Content of its ``config.json``.

    Raises:
        CheckpointError: If its config is too long or no text.
    """
    path = folder / CONFIG_TEXT_NAME
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise CheckpointError(f'{path} has {path.stat().st_size} bytes, which no config has')
    try:
        meta: dict[str, Any] = {'cfg': path.read_text(encoding='utf-8')}
    except UnicodeDecodeError as error:
        raise CheckpointError(f'{path} is no text in UTF-8') from error
    converted = _mapping(about.get('converted'))
    if converted:
        sizes = {key: _tuple(item) for key, item in _mapping(converted.get('architecture')).items()}
        meta[META_KEY] = {'source': str(converted.get('source')), 'architecture': sizes}
    if isinstance(about.get('dataset_meta'), Mapping):
        known = about['dataset_meta']
        meta['dataset_meta'] = {**known, 'classes': _tuple(known.get('classes'))}
    return meta


def flat_config(checkpoint: Checkpoint) -> str:
    """Text of the config that a checkpoint carries, without what its base files or its run said.

    Args:
        checkpoint: A checkpoint of this project.

    Raises:
        CheckpointError: If it carries none that can be read without running it.
    """
    meta = _mapping(checkpoint.extras.get('meta'))
    if meta.get('cfg') is not None:
        return flat_text(read_config_text(meta['cfg']).values)
    noted = Architecture.from_dict(_mapping(meta.get(META_KEY)).get('architecture'))
    if noted is None:
        raise CheckpointError('the checkpoint carries no config; give the one it was trained with')
    return published_config(noted).pretty_text


def flat_text(values: Mapping[str, Any]) -> str:
    """Text of a config's values without those that mean something on one machine only."""
    kept = {key: value for key, value in values.items() if key not in OF_THE_MACHINE}
    model = kept.get('model')
    if isinstance(model, Mapping):
        kept['model'] = {k: v for k, v in model.items() if k != 'class_embed_cache'}
    return Config(kept).pretty_text


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _tuple(value: Any) -> Any:
    """JSON has lists for tuples."""
    return tuple(value) if isinstance(value, list) else value
