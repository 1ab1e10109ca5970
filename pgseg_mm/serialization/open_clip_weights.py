import json
import math
import os
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import open_clip
from mmengine.logging import print_log
from open_clip.pretrained import download_pretrained_from_hf
from torch import Tensor, nn

from pgseg_mm.errors import ModelUnavailableError
from pgseg_mm.messages import first_line

from .loading import load_checkpoint
from .locating import HUB

MAX_LISTED_ENTRIES = 5
POSITION_IDS = 'transformer.embeddings.position_ids'
"""Saved by versions of transformers before 4.31; holds nothing but 0, 1, 2, ..."""


def load_text_tower(
    tower: nn.Module, model_name: str, pretrained: str, quick_gelu: bool = False
) -> None:
    """Load a text tower of open_clip from a checkpoint, without running code that it may hold.

    Args:
        tower: The text tower, which is changed in place.
        model_name: Name of its model, as open_clip spells it.
        pretrained: One of open_clip's tags for that model, ``hf-hub:ORGANISATION/REPOSITORY`` for
            the weights of an open_clip model there, or a file with the state dict of the whole
            model or of the text tower, as it is or under ``state_dict``. Entries of other parts are
            left out and counted in the log.
        quick_gelu: Whether the tower is built with QuickGELU, to be compared with the tag.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The tag is unknown, the file holds no state dict of tensors, or its entries do
            not fit the tower.
        ModelUnavailableError: The weights of a tag or a hub cannot be had.
    """
    path = _find_checkpoint(model_name, pretrained, quick_gelu)
    weights, others = _text_entries(load_checkpoint(path).state_dict, tower)
    _load(tower, weights, others, f'the text tower of {model_name}', path)


def load_image_tower(
    tower: nn.Module, model_name: str, pretrained: str, quick_gelu: bool = False
) -> None:
    """Load an image tower of open_clip; as :func:`load_text_tower`, which says what is raised."""
    path = _find_checkpoint(model_name, pretrained, quick_gelu)
    state_dict = load_checkpoint(path).state_dict
    prefix = 'visual.'
    weights = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    others = Counter(key.split('.')[0] for key in state_dict if not key.startswith(prefix))
    if not weights:
        weights, others = state_dict, Counter()
    _load(tower, weights, others, f'the image tower of {model_name}', path)


def pixel_statistics(
    model_name: str, pretrained: str
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of the pixels that weights were trained on.

    Args:
        model_name: Name of their model, as open_clip spells it.
        pretrained: As for :func:`load_image_tower`.

    Returns:
        Both R, G, B from 0 to 255; ``None`` where nothing says: for a file, and for a config
        without three finite numbers of each.

    Raises:
        ModelUnavailableError: The config of a hub's model cannot be had.
    """
    if pretrained.startswith(HUB):
        path = _download_from_hub(pretrained, 'open_clip_config.json')
        try:
            config = json.loads(Path(path).read_text(encoding='utf-8'))
        except ValueError as error:
            raise ModelUnavailableError(
                f'open_clip_config.json of {pretrained} is no JSON: {first_line(error)}'
            ) from error
        settings = config.get('preprocess_cfg') if isinstance(config, dict) else None
    else:
        settings = open_clip.get_pretrained_cfg(model_name, pretrained)
    known = settings if isinstance(settings, dict) else {}
    found: list[Any] = [known.get(key) for key in ('mean', 'std')]
    if not all(_is_colour(value) for value in found):
        return None
    mean, std = (tuple(255 * x for x in value) for value in found)
    return mean, std


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(isinstance(x, (int, float)) and math.isfinite(x) for x in value)
    )


def _load(
    tower: nn.Module, weights: dict[str, Tensor], others: Counter[str], what: str, path: str
) -> None:
    _check_entries(weights, tower.state_dict(), what, path)
    tower.load_state_dict(weights)
    left_out = ', '.join(f'{part} ({count})' for part, count in others.items()) or 'none'
    print_log(
        f'{len(weights)} entries of {path} loaded into {what}; entries of other parts left out: '
        f'{left_out}',
        logger='current',
    )


def _find_checkpoint(model_name: str, pretrained: str, quick_gelu: bool) -> str:
    if pretrained.startswith(HUB):
        return _download_from_hub(pretrained)
    tag = open_clip.get_pretrained_cfg(model_name, pretrained)
    if tag:
        _check_activation(model_name, pretrained, tag.get('quick_gelu', False), quick_gelu)
        try:
            return open_clip.download_pretrained(tag)
        except OSError as error:
            raise ModelUnavailableError(
                f'The weights {pretrained!r} of {model_name} could not be downloaded: {error}\n'
                'Without a network give the path of a local copy as pretrained, or None.'
            ) from error
    if os.path.isfile(pretrained):
        return pretrained
    tags = ', '.join(open_clip.list_pretrained_tags_by_model(model_name)) or 'none'
    message = (
        f'pretrained={pretrained!r} is neither a file nor a tag that open_clip has for '
        f'{model_name}; its tags are: {tags}.'
    )
    if os.path.dirname(pretrained) or os.path.splitext(pretrained)[1]:
        raise FileNotFoundError(message)
    raise ValueError(message)


def _download_from_hub(name: str, filename: str | None = None) -> str:
    """Path of a file of an open_clip model of a hub, by default its weights, downloaded unless it
    is there.
    """
    try:
        return download_pretrained_from_hf(name.removeprefix(HUB), filename=filename)
    except (OSError, ValueError) as error:
        raise ModelUnavailableError(
            f'The weights of {name} could not be had: {first_line(error)}\n'
            'An open_clip model on the hub has a file open_clip_model.safetensors or '
            'open_clip_pytorch_model.bin. Without a network, what was downloaded before is taken.'
        ) from error


def _check_activation(model_name: str, tag: str, trained_with: bool, built_with: bool) -> None:
    """Warn as open_clip does: these weights fit in shape, but their features are worse."""
    if trained_with == built_with:
        return
    other = f'{model_name}-quickgelu' if trained_with else model_name.removesuffix('-quickgelu')
    names = ('GELU', 'QuickGELU')
    warnings.warn(
        f'The weights {tag!r} were trained with {names[trained_with]}, but {model_name} is built '
        f'with {names[built_with]}'
        + (f'; use model_name={other!r}.' if other in open_clip.list_models() else '.'),
        stacklevel=2,
    )


def _text_entries(
    state_dict: dict[str, Tensor], tower: nn.Module
) -> tuple[dict[str, Tensor], Counter[str]]:
    """Entries of the text tower by their names in it, and the number of others for each part.

    open_clip's models have their text tower under ``text.``, or spread at the top.
    """
    if any(key.startswith('text.') for key in state_dict):
        mine = {key: key.removeprefix('text.') for key in state_dict if key.startswith('text.')}
    else:
        parts = {key.split('.')[0] for key in tower.state_dict()}
        mine = {key: key for key in state_dict if key.split('.')[0] in parts}
    others = Counter(key.split('.')[0] for key in state_dict if key not in mine)
    weights = {name: state_dict[key] for key, name in mine.items() if name != POSITION_IDS}
    return weights, others


def _check_entries(
    given: dict[str, Tensor], expected: dict[str, Tensor], tower: str, path: str
) -> None:
    shapes = [
        f'{name} is {tuple(given[name].shape)} instead of {tuple(expected[name].shape)}'
        for name in expected
        if name in given and given[name].shape != expected[name].shape
    ]
    faults = {
        'missing': [name for name in expected if name not in given],
        'unknown': [name for name in given if name not in expected],
        'of another shape': shapes,
    }
    listed = '; '.join(
        f'{len(names)} {fault}: {", ".join(names[:MAX_LISTED_ENTRIES])}'
        + (', ...' if len(names) > MAX_LISTED_ENTRIES else '')
        for fault, names in faults.items()
        if names
    )
    if listed:
        raise ValueError(
            f'{path} does not fit {tower}; entries {listed}. Is it a checkpoint of this '
            'architecture, saved by open_clip?'
        )
