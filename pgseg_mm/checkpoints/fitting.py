"""Weights are loaded into a model they fit, or refused with what to do."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from typing import Any, Literal, NamedTuple

from mmengine.logging import print_log
from torch import Tensor, nn

from pgseg_mm.messages import first_of
from pgseg_mm.serialization.loading import CheckpointError, check_state_dict

from .architecture import infer_architecture, shapes_of

Purpose = Literal['predict', 'begin', 'resume']
"""What the weights are for: to predict with, to begin a training with, or to go on with one."""

TRAINING_ONLY = (
    'decode_head.text_prototypes.',  # T-NPR
    'decode_head.loss_npr.',
    'auxiliary_head.',
)
"""Entries that prediction can do without."""
COUNTERS = '.num_batches_tracked'
"""Entries of batch norm that compute nothing, and that old checkpoints lack."""
PARTS = {
    'text_encoder.': ('vocab_size', 'context_length', 'text_'),
    'decode_head.image_projector.': ('output_dims', 'hidden_channels'),
}
"""What is told of an architecture by the entries of a part."""
MIN_SHARE = 0.5
"""Share of the backbone that weights must have to begin a training with."""
CONVERTERS = (
    ('img_encoder.', "PGSeg's or GroupViT's release", 'pgseg2mm.py or groupvit2mm.py'),
    ('vision_model.', "Hugging Face's GroupViT", 'hf_groupvit2mm.py'),
)
"""Prefix of names, code base, and converter in tools/model_converters."""


class Fit(NamedTuple):
    """How a state dict and a model fit, by names of entries."""

    missing: tuple[str, ...]
    """Of the model alone."""
    unexpected: tuple[str, ...]
    """Of the state dict alone."""
    mismatched: tuple[str, ...]
    """Of both, but of another shape."""


def load_what_fits(model: nn.Module, state_dict: Mapping[str, Tensor]) -> Fit:
    """Load all entries into a model that it has with the same shape.

    Args:
        model: The model, changed in place.
        state_dict: Entries by name.

    Returns:
        What was loaded and what not.
    """
    own = model.state_dict().keys()
    missing = tuple(name for name in own if name not in state_dict)
    unexpected = tuple(name for name in state_dict if name not in own)
    try:
        model.load_state_dict(state_dict, strict=False)
    except RuntimeError as error:  # shapes; torch has loaded all others
        mismatched = tuple(re.findall(r'size mismatch for (\S+):', str(error)))
        if not mismatched:
            raise
        return Fit(missing, unexpected, mismatched)
    return Fit(missing, unexpected, ())


def load_fitting(
    model: nn.Module,
    state_dict: Any,
    where: str | PathLike[str],
    purpose: Purpose = 'predict',
    allow_partial: bool = False,
) -> Fit:
    """Load a state dict into a model, or refuse it and say what to do.

    To predict with, it must have all entries of the model but those that only training needs: T-NPR
    and the temperature of NPR, auxiliary heads, and the tower of a text encoder that has its own
    published weights and is frozen. To go on with a training it must have all entries. To begin one
    with, half of the backbone must fit: heads, prototypes and text towers may be new, and are named
    in the log.

    Args:
        model: The model, not wrapped, changed in place.
        state_dict: Entries by name, as a checkpoint has them.
        where: What the weights are called in messages.
        purpose: What they are for.
        allow_partial: Whether to take whatever fits, and to name the rest in the log.

    Returns:
        What was loaded and what not.

    Raises:
        CheckpointError: If they do not fit.
    """
    if isinstance(state_dict, Mapping) and any(k in state_dict for k in ('model', 'state_dict')):
        nested = next(state_dict[k] for k in ('state_dict', 'model') if k in state_dict)
        state_dict = nested if isinstance(nested, Mapping) else state_dict
    entries = check_state_dict(state_dict, str(where))
    fit = load_what_fits(model, entries)
    missing = tuple(name for name in fit.missing if not _may_be_missing(name, model, purpose))
    refused = bool(missing or fit.mismatched)
    if purpose == 'begin':
        refused = _share(model, fit) < MIN_SHARE
    told = _describe(fit._replace(missing=missing), model)
    if refused and not allow_partial:
        raise CheckpointError(
            f'{where} does not fit the model: {told}{_differences(model, entries)}'
            f'{_advice(entries, purpose)}'
        )
    _log(fit, told, missing, where, purpose)
    return fit


def _may_be_missing(name: str, model: nn.Module, purpose: Purpose) -> bool:
    if name.endswith(COUNTERS):
        return True
    if purpose == 'resume':
        return False
    tower = getattr(model, 'text_encoder', None)
    complete = getattr(tower, 'frozen', False) and getattr(tower, 'is_pretrained', False)
    return name.startswith(TRAINING_ONLY) or (complete and name.startswith('text_encoder.'))


def _share(model: nn.Module, fit: Fit) -> float:
    """Share of the backbone's entries that fit, or of the model's if it has no backbone."""
    names = list(model.state_dict())
    core = [name for name in names if name.startswith('backbone.')] or names
    left_out = {*fit.missing, *fit.mismatched}
    return sum(name not in left_out for name in core) / max(len(core), 1)


def _describe(fit: Fit, model: nn.Module) -> str:
    parts = []
    if fit.missing:
        total = len(model.state_dict())
        parts.append(f'it lacks {first_of(fit.missing, 3)} ({len(fit.missing)} of {total} entries)')
    if fit.mismatched:
        parts.append(
            f'{len(fit.mismatched)} entries are of another shape: {first_of(fit.mismatched, 3)}'
        )
    return ' and '.join(parts) or 'nothing is missing'


def _differences(model: nn.Module, entries: Mapping[str, Tensor]) -> str:
    """How the models differ that the weights are of and are for, as far as shapes tell."""
    found = {name: tuple(value.shape) for name, value in entries.items()}
    try:
        # heads are not in the shapes, and the size of images is in one that is named anyway
        theirs, ours = (
            infer_architecture(shapes.get, img_size=(1, 1)) for shapes in (found, shapes_of(model))
        )
    except CheckpointError:
        return ''  # of another code base, or another backbone
    theirs = replace(theirs, num_heads=ours.num_heads, text_heads=ours.text_heads)
    absent = {part for part in PARTS if not any(name.startswith(part) for name in found)}
    told = [
        difference
        for difference in theirs.differences(ours)
        if not any(difference.startswith(PARTS[part]) for part in absent)
    ]
    return f'; its model has {first_of(told)}' if told else ''


def _advice(entries: Mapping[str, Tensor], purpose: Purpose) -> str:
    for prefix, origin, converter in CONVERTERS:
        if any(name.startswith(prefix) for name in entries):
            return (
                f'. It is a checkpoint of {origin}: convert it with '
                f'tools/model_converters/{converter}'
            )
    if purpose == 'resume':
        return (
            '. A training can only go on with its own model; to begin a new one with these '
            'weights, set load_from and leave out resume'
        )
    wanted = (
        'Give a checkpoint of this model'
        if purpose == 'predict'
        else 'Give weights of which at least the backbone fits'
    )
    return (
        f'. {wanted} (checkpoints of other code bases are converted by tools/model_converters); '
        '--allow-partial takes what fits'
    )


def _log(
    fit: Fit, told: str, missing: tuple[str, ...], where: str | PathLike[str], purpose: Purpose
) -> None:
    if missing or fit.mismatched:
        _warn(f'{where} fits the model in part: {told}. These keep the values that they begin with')
    allowed = [name for name in fit.missing if name not in missing and not name.endswith(COUNTERS)]
    if allowed:
        become = 'begin anew' if purpose == 'begin' else 'are not needed here'
        message = f'{where} does without {first_of(allowed, 3)}, which {become}'
        print_log(message, logger='current')
    unexpected = [name for name in fit.unexpected if not name.startswith(TRAINING_ONLY)]
    if unexpected:
        _warn(f'{where} has entries that the model does not use: {first_of(unexpected, 3)}')


def _warn(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)
