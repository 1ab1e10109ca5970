"""The config that a checkpoint carries, to predict with; what it asks for is looked at before."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from os import PathLike
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import Registry
from mmseg.registry import MODELS, TRANSFORMS

from pgseg_mm import limits
from pgseg_mm.cli.benchmark_data import leaf_datasets
from pgseg_mm.messages import first_of, quoted, shown
from pgseg_mm.serialization.loading import (
    STATE_DICT_KEYS,
    Checkpoint,
    CheckpointError,
    load_file_safely,
)

from .architecture import Architecture, infer_architecture
from .config_text import read_config_text
from .kept import cache_folder
from .mm_checkpoint import META_KEY
from .published_config import published_config

OWN_PACKAGE = 'pgseg_mm'
HOMES = (
    f'{OWN_PACKAGE}.',
    'mmcv.cnn.',
    'mmcv.transforms.loading',
    'mmcv.transforms.processing',
    'mmseg.datasets.transforms.',
    'mmseg.models.losses.',
    'torch.nn.',
)
"""Modules whose classes a config of a stranger may ask for: none of them runs or fetches code."""
SCOPES = ('mmseg', 'mmengine', 'mmcv')
ELSEWHERE = ('hf-hub:', 'local-dir:', 'http://', 'https://')
"""What begins a text that would fetch or read something while a model is built."""
FILES = ('.txt', '.npy', '.npz', '.pt', '.pth', '.json', '.csv')
WORDS = ('templates', 'vocabulary')
"""Settings whose lists are texts for prompts. Alone, such a text names a file or a known list."""
NOT_FOR_PREDICTION = (
    'init_cfg',
    'pretrained',
    'class_embed_cache',
    'backend_args',
    'file_client_args',
)
"""Settings of which prediction needs nothing: weights to start from, a folder of another machine,
and how images came to it."""
SIZES = {
    'backbone': {
        'type': 'PGSegViT',
        'depths': 'depths',
        'embed_dims': 'embed_dims',
        'in_channels': 'in_channels',
        'patch_size': 'patch_size',
        'num_group_tokens': 'num_group_tokens',
        'num_output_groups': 'num_output_groups',
        'mlp_ratio': 'mlp_ratio',
    },
    'text_encoder': {
        'type': 'PGSegTextTransformer',
        'vocab_size': 'vocab_size',
        'context_length': 'context_length',
        'embed_dims': 'text_dims',
        'num_layers': 'text_layers',
    },
    'decode_head': {
        'type': 'PGSegHead',
        'channels': 'output_dims',
        'hidden_channels': 'hidden_channels',
    },
}
"""Settings that the shapes of weights tell, by the names that they have in an architecture."""


def config_of(source: str | PathLike[str] | Checkpoint, trust: bool = False) -> Config:
    """Config to predict with that a checkpoint carries.

    Its text is read, not run, and only classes of this project and of what it builds on are taken
    from it. A converted checkpoint without a config gets that of its architecture.

    Args:
        source: What :func:`.locate` takes, or a checkpoint that was read.
        trust: Whether to unpickle all of the file, if it is read; the config is not run even so.

    Returns:
        ``model``, ``test_pipeline``, ``background_thresholds`` and ``default_scope``.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it carries none, or one that must not be used unasked.
    """
    if isinstance(source, Checkpoint):
        return _config_of(source.state_dict, source.extras.get('meta'), 'the checkpoint')
    content = load_file_safely(source, trust, structure_only=not trust).content  # type: ignore[arg-type]
    if not isinstance(content, Mapping):
        raise CheckpointError(f'{shown(source)} holds no state dict; expected names and tensors')
    nested = (content[key] for key in STATE_DICT_KEYS if isinstance(content.get(key), Mapping))
    return _config_of(next(nested, content), content.get('meta'), shown(source))


def _config_of(state_dict: Mapping[str, Any], meta: Any, where: str) -> Config:
    meta = meta if isinstance(meta, Mapping) else {}
    try:
        if meta.get('cfg') is None:
            noted = Architecture.from_dict((meta.get(META_KEY) or {}).get('architecture'))
            if noted is None:
                raise CheckpointError('it carries none, as plain weights do')
            _check_sizes(noted.model_cfg(), state_dict)
            values: Mapping[str, Any] = published_config(noted).to_dict()
        else:
            values = _values(meta['cfg'])
        return Config(_to_predict_with(values, state_dict))
    except CheckpointError as error:
        raise CheckpointError(
            f'{where} cannot be used without a config: {error}. Give the config that it was '
            'trained with, too'
        ) from error


def _values(text: Any) -> Mapping[str, Any]:
    values, skipped = read_config_text(text)
    if skipped:
        print_log(
            f'Of the config in the checkpoint {len(skipped)} statements are code, which is not '
            f'run: {first_of(skipped, 3)}',
            logger='current',
            level=logging.WARNING,
        )
    return values


def _to_predict_with(values: Mapping[str, Any], state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config prediction needs, once it has been looked at."""
    model = values.get('model')
    if not isinstance(model, Mapping):
        raise CheckpointError('its config has no model of plain values')
    model = _plain(model)
    strange = _foreign_imports(values)
    _check(model, MODELS, 'model', strange)
    _check_sizes(model, state_dict)
    result = {
        'default_scope': 'mmseg',
        'model': {**model, 'class_embed_cache': str(cache_folder().parent)},
        'background_thresholds': _thresholds(values.get('background_thresholds')),
    }
    if pipeline := _pipeline(values):
        for step in pipeline:
            _check(step, TRANSFORMS, 'test_pipeline', strange)
        result['test_pipeline'] = pipeline
    return result


def _plain(part: Any, depth: int = 0) -> Any:
    """The same without what prediction does not need."""
    if depth > limits.CHECKPOINT_DEPTH:
        raise CheckpointError('its config is nested too deeply')
    if isinstance(part, Mapping):
        return {
            key: _plain(value, depth + 1)
            for key, value in part.items()
            if key not in NOT_FOR_PREDICTION
        }
    if isinstance(part, (list, tuple)):
        return type(part)(_plain(item, depth + 1) for item in part)
    return part


def _foreign_imports(values: Mapping[str, Any]) -> list[str]:
    """Modules that a config wants to import and that nobody imports for it."""
    imports = values.get('custom_imports')
    names = imports.get('imports') if isinstance(imports, Mapping) else imports
    names = [names] if isinstance(names, str) else names or ()
    return [shown(n) for n in names if n != OWN_PACKAGE] if isinstance(names, (list, tuple)) else []


def _check(part: Any, registry: Registry, where: str, strange: list[str]) -> None:
    """Refuse what would import, run or fetch something when a part of a config is built."""
    if isinstance(part, Mapping):
        if '_scope_' in part:
            raise CheckpointError(f'{where} of its config has a _scope_, which imports a package')
        if 'type' in part and _home_of(part['type'], registry) is None:
            advice = (
                f' (it wants to import {first_of(strange, 3)}, which is not done unasked)'
                if strange
                else ''
            )
            raise CheckpointError(
                f'{where} of its config asks for {quoted(part["type"])}, which is not of '
                f'{OWN_PACKAGE}{advice}'
            )
        if isinstance(part, dict) and _is_path(str(part.get('type', ''))):
            part['type'] = part['type'].rpartition('.')[2]  # its module is not imported by name
        for key, value in part.items():
            if key in WORDS and _are_words(value):
                continue
            _check(value, registry, f'{where}.{shown(key)}', strange)
    elif isinstance(part, (list, tuple)):
        for item in part:
            _check(item, registry, where, strange)
    elif isinstance(part, str) and (
        part.startswith(ELSEWHERE) or part.endswith(FILES) or re.search(r'[/\\]', part)
    ):
        raise CheckpointError(
            f'{where} of its config is {quoted(part)}; nothing is read or fetched for a config '
            'that nobody gave'
        )


def _is_path(kind: str) -> bool:
    """Whether this is a class with its module, as configs in pure Python name them."""
    package, *rest = kind.split('.')
    return len(rest) > 1 and any(home.startswith(f'{package}.') for home in HOMES)


def _are_words(value: Any) -> bool:
    """Whether this is a list of texts, or of lists of them, which no path can be."""
    if not isinstance(value, (list, tuple)):
        return False
    return all(isinstance(item, str) or _are_words(item) for item in value)


def _home_of(kind: Any, registry: Registry) -> str | None:
    """Module of a registered class that a stranger may ask for.

    ``Registry.get`` is not asked: what it does not know it imports.
    """
    if not isinstance(kind, str):
        return None
    scope, _, name = kind.rpartition('.')
    if scope and scope not in SCOPES and not _is_path(kind):
        return None
    found: Registry | None = registry
    while found is not None:
        home = getattr(found.module_dict.get(name), '__module__', '')
        if home.startswith(HOMES):
            return home
        found = found.parent
    return None


def _pipeline(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Transforms of the test set, which are all that its config is needed for."""
    loader = values.get('test_dataloader')
    dataset = loader.get('dataset') if isinstance(loader, Mapping) else None
    try:
        leaf = leaf_datasets(dataset)[0] if isinstance(dataset, Mapping) else {}
        steps = leaf.get('pipeline') or values.get('test_pipeline') or []
    except (AttributeError, IndexError, TypeError, RecursionError) as error:
        raise CheckpointError('its config has a test_dataloader that is none') from error
    if not isinstance(steps, (list, tuple)) or not all(
        isinstance(step, Mapping) and 'type' in step for step in steps
    ):
        raise CheckpointError('its config has a test_pipeline that is no list of transforms')
    return [_plain(step) for step in steps]


def _thresholds(values: Any) -> dict[str, float]:
    """Background thresholds by vocabulary."""
    if not isinstance(values, Mapping):
        return {}
    return {
        str(key): float(value)
        for key, value in values.items()
        if type(value) in (int, float) and 0 < value <= 1
    }


def _check_sizes(model: Mapping[str, Any], state_dict: Mapping[str, Any]) -> None:
    """Refuse a model that is larger than its weights, before it is built."""

    def shape_of(name: str) -> tuple[int, ...] | None:
        shape = getattr(state_dict.get(name), 'shape', None)
        return None if shape is None else tuple(shape)

    backbone = model.get('backbone')
    if not isinstance(backbone, Mapping) or not _is_a(backbone, 'PGSegViT'):
        return
    told = infer_architecture(shape_of, img_size=(1, 1))
    patches = (shape_of('backbone.pos_embed') or (1, 196))[1]
    _check_grid(backbone.get('img_size', 224), told.patch_size, patches)
    prototypes = backbone.get('prototypes')
    if isinstance(prototypes, Mapping):
        hidden = prototypes.get('hidden_channels', told.prototype_channels)
        _check_size('backbone.prototypes.hidden_channels', hidden, told.prototype_channels)
    for part, settings in SIZES.items():
        given = model.get(part)
        if not isinstance(given, Mapping) or not _is_a(given, settings['type']):
            continue
        for key, name in settings.items():
            if key == 'type' or key not in given:
                continue
            _check_size(f'{part}.{key}', given[key], getattr(told, name))


def _check_grid(img_size: Any, patch_size: int, patches: int) -> None:
    sides = img_size if isinstance(img_size, (list, tuple)) else (img_size, img_size)
    if not all(type(side) is int for side in sides) or (
        math.prod(side // patch_size for side in sides) != patches
    ):
        raise CheckpointError(
            f'its config has backbone.img_size {quoted(img_size)}, its weights have {patches} '
            f'patches of {patch_size} px'
        )


def _check_size(name: str, given: Any, found: Any) -> None:
    if not _equal(given, found):
        raise CheckpointError(f'its config has {name} {quoted(given)}, its weights have {found}')


def _is_a(part: Mapping[str, Any], kind: str) -> bool:
    name = part.get('type')
    return isinstance(name, str) and name.rpartition('.')[2] == kind


def _equal(given: Any, found: Any) -> bool:
    """Whether a setting is what weights have; a number may stand for each stage."""
    if isinstance(found, tuple):
        given = given if isinstance(given, (list, tuple)) else [given] * len(found)
        return tuple(given) == found
    if isinstance(found, float):  # the hidden width is a whole number
        return type(given) in (int, float) and math.isclose(given, found, rel_tol=0.01)
    return given == found
