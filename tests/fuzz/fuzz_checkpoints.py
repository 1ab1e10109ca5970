"""Hostile checkpoints: random pickles, odd archives and headers, real ones that were damaged."""

from __future__ import annotations

import contextlib
import copy
import logging
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader

from pgseg_mm.checkpoints.mm_checkpoint import architecture_of, origin_of
from pgseg_mm.checkpoints.release_config import heads_of_release_config
from pgseg_mm.serialization.loading import CheckpointError, load_checkpoint, load_file_safely
from pgseg_mm.serialization.runner_checkpoints import (
    load_checkpoints_safely,
    load_training_checkpoint,
)

from .hostile_checkpoints import (
    archive,
    bombs,
    legacy,
    mutated_training_checkpoint,
    odd_archive,
    odd_legacy,
    odd_safetensors,
    training_checkpoint,
)
from .random_pickles import random_pickle

REFUSALS = (CheckpointError,)
KINDS = {
    'pickle': lambda rng: archive(random_pickle(rng)),
    'legacy-pickle': lambda rng: legacy(random_pickle(rng), ['0'], [6]),
    'training': mutated_training_checkpoint,
    'archive': odd_archive,
    'legacy': odd_legacy,
    'safetensors': odd_safetensors,
}
WEIGHTS = [5, 1, 2, 2, 1, 1]


def cases(seed: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of hostile files, without end; those of a negative seed are costly."""
    if seed < 0:
        yield from bombs()
    number = 0
    while True:
        rng = random.Random(f'{seed}/{number}')
        kind = rng.choices(list(KINDS), WEIGHTS)[0]
        suffix = 'safetensors' if kind == 'safetensors' else 'pth'
        yield f'{kind} {seed} {number}::.{suffix}', KINDS[kind](rng)
        number += 1


def prepare() -> None:
    """Load good files, so that all that is imported on the way is there before."""
    load_checkpoints_safely()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(good_files()):
            path = Path(folder, f'{number}.pth')
            path.write_bytes(content)
            with contextlib.suppress(CheckpointError):
                attempt(str(path))


def attempt(path: str) -> None:
    """Load a file by each public way, and use what comes of it.

    Raises:
        CheckpointError: None of them takes it.
    """
    refusal, taken = None, 0
    for load in (
        load_file_safely,
        load_training_checkpoint,
        load_as_mmengine,
        load_to_convert,
        load_structure,
    ):
        try:
            use(load(Path(path)))
            taken += 1
        except CheckpointError as error:
            refusal = error
    if refusal is not None and not taken:
        raise refusal


def load_structure(path: Path) -> Any:
    """As ``--resume`` does, to see whether it can be read; the numbers are not there."""
    load_training_checkpoint(path, structure_only=True)


def load_as_mmengine(path: Path) -> Any:
    """As ``load_from``, ``init_cfg`` and ``--resume`` do."""
    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu')


def load_to_convert(path: Path) -> Any:
    """As the converters and the inferencer do."""
    checkpoint = load_checkpoint(path)
    heads_of_release_config(checkpoint.extras.get('config'))
    origin_of(checkpoint)
    architecture_of(checkpoint)
    return checkpoint.state_dict


def use(content: Any) -> None:
    """Touch every number, and do what a Runner does first."""
    todo = [content]
    while todo:
        value = todo.pop()
        if isinstance(value, torch.Tensor):
            value.clone()
        elif isinstance(value, HistoryBuffer):
            if len(value.data[0]):
                value.mean(), value.min(), value.max(), value.current()
        elif isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, (list, tuple)):
            todo += value
    hub = content.get('message_hub') if type(content) is dict else None
    if isinstance(hub, dict) and isinstance(hub.get('log_scalars'), dict):
        copy.deepcopy(hub)
        MessageHub.get_instance('fuzz').load_state_dict(hub)


def good_files() -> Iterator[bytes]:
    """Files that load as checkpoints of training; converters refuse them."""
    for protocol in (2, 5):
        yield training_checkpoint(protocol)
        yield training_checkpoint(protocol, zipped=False)
