"""From what a checkpoint is given as to a file in this project's own format.

A path, an address, ``hf-hub:owner/name[@revision]``, a Hugging Face folder, or the name of a
published model: :mod:`pgseg_mm.serialization.locating` hands what is no file to :func:`make_local`,
so that ``load_from``, ``init_cfg``, the inferencer and all tools take the same.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgseg_mm.messages import first_of, shown
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.locating import HUB, REMOTE, expanded, is_address
from pgseg_mm.serialization.runner_checkpoints import cached_path, fetch_checkpoint
from pgseg_mm.serialization.saving import save_atomically

from . import hub
from .conversion import Conversion
from .hugging_face import (
    CONFIG_NAME,
    CONFIG_TEXT_NAME,
    find_weights,
    hugging_face_to_mm,
    is_own_format,
    load_hugging_face,
    shard_names,
)
from .kept import kept, locked
from .mm_checkpoint import save_mm
from .own_folder import own_meta
from .published import (
    PublishedModel,
    file_address,
    hub_source,
    near_names,
    published_models,
)
from .release import release_to_mm

CONVERTER = 2
"""Goes up when the same source is converted to another checkpoint, so that it is made again."""
CHECKPOINT_SUFFIXES = ('.pth', '.pt', '.bin', '.ckpt', '.safetensors')
HALVES = (torch.float16, torch.bfloat16)
OWN, RELEASE = 'backbone.', 'img_encoder.'
"""What names of entries begin with, here and in PGSeg's and GroupViT's release."""


class UnknownModelError(CheckpointError, FileNotFoundError):
    """What was given is neither a file nor the name of a published model."""


class NotFetchableError(CheckpointError):
    """Published weights lie where no program may fetch them."""


def make_local(source: str | os.PathLike[str]) -> Path:
    """Path of a checkpoint in this project's own format.

    What is on a hub or behind an address is downloaded once. Models of Hugging Face are converted
    once, in float32, and kept (:func:`.kept.kept`) by the hash of their files.

    Args:
        source: A path, ``http(s)://...``, ``hf-hub:owner/name[@revision]``, a folder as
            ``transformers`` saves it, or the name of a published model.

    Returns:
        The path; that there is a file is not said for what was given as a path.

    Raises:
        CheckpointError: If it cannot be had or converted.
    """
    path = fetch(source)
    return _converted(path, str(source)) if _is_model_folder(path) else path


def fetch(source: str | os.PathLike[str]) -> Path:
    """File or Hugging Face folder of a checkpoint on this disk, as it was published.

    Args:
        source: As for :func:`make_local`.

    Raises:
        CheckpointError: If it cannot be had.
    """
    text = str(source)
    path = expanded(text)
    if os.path.isfile(path) or _is_model_folder(path):
        return path
    if text.startswith(HUB):
        return hub.download(hub.parse_name(text))
    if text.startswith(REMOTE):
        on_hub = hub_source(text)
        return hub.download(hub.parse_name(on_hub)) if on_hub else _downloaded(file_address(text))
    if is_address(text) or os.path.isdir(path) or not _is_name(text):
        return path
    return _published(text)


def _is_model_folder(path: Path) -> bool:
    has_config = os.path.isfile(path / CONFIG_NAME)
    return has_config or os.path.isdir(path) and find_weights(path) is not None


def _is_name(text: str) -> bool:
    return (
        not re.search(r'[/\\]', text)
        and not text.endswith(CHECKPOINT_SUFFIXES)
        and text not in ('', '.')
    )


def _published(name: str) -> Path:
    models = published_models()
    if name not in models:
        raise UnknownModelError(
            f'checkpoint {shown(name)} does not exist, and no published model has this name: '
            f'{near_names(name, models)}'
        )
    model = models[name]
    if model.hub is None:
        raise NotFetchableError(_how_to_get(model))
    return hub.download(hub.parse_name(model.hub))


def _how_to_get(model: PublishedModel) -> str:
    return (
        f'no program may fetch the weights of {model.name}: the authors link them on {model.page}. '
        'Once they are on your disk, run pgseg convert '
        f'DOWNLOADED.pth {model.name}.pth, and give {model.name}.pth'
    )


def _downloaded(address: str) -> Path:
    try:
        with locked(cached_path(address)):
            return fetch_checkpoint(address)
    except CheckpointError:
        raise
    except (OSError, ValueError, HTTPException) as error:
        raise CheckpointError(
            f'checkpoint {shown(address)} cannot be downloaded ({shown(error)}); download it '
            'yourself and give the path of the file'
        ) from error


def _converted(folder: Path, source: str) -> Path:
    """The checkpoint that was made of a Hugging Face folder, made if need be."""
    files = _files(folder)
    digest = hashlib.sha256(f'converter {CONVERTER}'.encode())
    for file in files:
        digest.update(f'\n{file.name} {hub.known_sha256(file)}'.encode())

    def make(path: Path) -> None:
        for file in files:
            hub.verify(file)
        convert_folder(folder, source, path)

    return kept(f'hugging-face-{digest.hexdigest()[:32]}.pth', make)


def _files(folder: Path) -> list[Path]:
    """The files that a conversion reads."""
    weights = find_weights(folder)
    config = folder / CONFIG_NAME
    names = [] if weights is None else shard_names(weights)
    shards = [folder / name for name in names if name != getattr(weights, 'name', None)]
    files = [config] if config.is_file() else []
    files += [folder / CONFIG_TEXT_NAME] if is_own_format(folder) else []
    files += [weights] if weights is not None else []
    files += shards
    if absent := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(f'{folder} lacks {first_of(absent, 3)}, which it should have')
    return files


def convert_folder(folder: Path, source: str, path: Path) -> None:
    """Write the model of a folder in this project's format.

    What is converted has single precision at least; entries of our own stay as they are.

    Args:
        folder: As ``save_pretrained`` leaves it, or :func:`.own_folder.save_own_folder`.
        source: What the model is called in messages.
        path: File to write.

    Raises:
        CheckpointError: If it is another model than a GroupViT, or lacks entries.
    """
    checkpoint, config = load_hugging_face(folder)
    entries = checkpoint.state_dict
    if any(name.startswith(OWN) for name in entries):
        meta = own_meta(folder, config) if is_own_format(folder) else {}
        content = {'state_dict': entries, 'meta': meta}
        save_atomically(path, content)
        return
    if is_own_format(folder):
        raise CheckpointError(f'{source} has no entries of this project, such as {OWN}...')
    entries = {name: _widened(value) for name, value in entries.items()}
    conversion = _conversion(entries, config)
    report = conversion.report
    if not report.complete:
        faults = {
            'missing': report.missing,
            'unknown': report.unexpected,
            'of another shape': [name for name, _, _ in report.mismatched],
        }
        told = '; '.join(
            f'{len(names)} {fault}: {first_of(names, 3)}'
            for fault, names in faults.items()
            if names
        )
        raise CheckpointError(f'{source} is no GroupViT that this project has: entries {told}')
    save_mm(path, conversion, source, list(entries))


def _conversion(entries: Mapping[str, Tensor], config: Mapping[str, Any]) -> Conversion:
    if any(name.startswith(RELEASE) for name in entries):
        return release_to_mm(entries)
    return hugging_face_to_mm(entries, config)


def _widened(value: Tensor) -> Tensor:
    return value.float() if value.dtype in HALVES else value
