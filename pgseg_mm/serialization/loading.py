from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from pgseg_mm import limits

from .atomic_files import write_atomically as write_atomically
from .file_kinds import foreign_kind
from .known_objects import make_known_objects
from .locating import locate
from .placeholders import ForeignObject
from .torch_files import UnsupportedFormatError, read_torch_file

STATE_DICT_KEYS = ('state_dict', 'model')
"""Where checkpoints keep their state dict, mmengine's first."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or is not what was expected."""


class LoadedFile(NamedTuple):
    """Content of a checkpoint file."""

    content: Any
    foreign: tuple[str, ...]
    """Types and functions that the file names and that were not loaded."""


class Checkpoint(NamedTuple):
    """A state dict and what lies beside it in its file."""

    state_dict: dict[str, Tensor]
    extras: dict[str, Any]
    """Other entries of the file, such as an optimizer's state."""
    foreign: tuple[str, ...] = ()
    """Types and functions that the file names and that were not loaded."""


def load_file_safely(
    path: str | Path,
    trust: bool = False,
    map_location: Any = 'cpu',
    structure_only: bool = False,
) -> LoadedFile:
    """Read a checkpoint file without running code that it may hold.

    Objects of other types than tensors and plain values, such as the config of a training run, are
    read as :class:`ForeignObject`. What a file may ask for at most is in :mod:`pgseg_mm.limits`.

    Args:
        path: A file of ``torch.save``, or a ``.safetensors`` file; or what :func:`.locate` finds.
        trust: Whether to unpickle everything. This runs whatever code the file asks for.
        map_location: Where the tensors of a file of ``torch.save`` go, as in :func:`torch.load`.
        structure_only: Whether to leave the numbers of such a file where they are; its tensors
            have shapes only.

    Returns:
        The content.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is no checkpoint, or damaged, or of a format that cannot be read
            safely, or asks for more than the limits allow.
    """
    path = locate(path)
    if path.is_dir():
        raise CheckpointError(f'{path} is a folder; give a checkpoint file')
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    refuse_foreign_file(path)
    try:
        if path.suffix == '.safetensors':
            return LoadedFile(_load_safetensors(path), ())
        if trust:
            return LoadedFile(torch.load(path, map_location, weights_only=False), ())
        return LoadedFile(*read_torch_file(path, map_location, structure_only))
    except UnsupportedFormatError as error:
        raise CheckpointError(
            f'{path} {error}; save its state dict with a current PyTorch, or use --trust if you '
            'trust its origin'
        ) from error
    # a broken or hostile file can fail in any way
    except (Exception, RecursionError) as error:
        kind = 'safetensors' if path.suffix == '.safetensors' else 'PyTorch'
        raise CheckpointError(
            f'{path} cannot be read as a {kind} checkpoint: {describe_error(error)}'
        ) from error


def refuse_foreign_file(path: Path) -> None:
    """Refuse a file that cannot be a checkpoint, and say what it seems to be.

    Args:
        path: The file.

    Raises:
        CheckpointError: If it is something else.
    """
    if (kind := foreign_kind(path)) is not None:
        wanted = 'safetensors' if path.suffix == '.safetensors' else 'PyTorch'
        raise CheckpointError(f'{path} cannot be read as a {wanted} checkpoint: it {kind}')


def describe_error(error: BaseException) -> str:
    """Type and first line of an error."""
    first = str(error).splitlines()[0] if str(error) else ''
    return f'{type(error).__name__}: {first[:200]}'


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    with path.open('rb') as file:
        length = int.from_bytes(file.read(8), 'little')
    if length > min(limits.SAFETENSORS_HEADER_BYTES, path.stat().st_size):
        raise ValueError(f'its header has {length} bytes')
    return load_file(path)


def load_checkpoint(path: str | Path, trust: bool = False) -> Checkpoint:
    """Read the state dict of a checkpoint file; see :func:`load_file_safely`.

    It may be the whole content or lie under ``state_dict`` or ``model``; a prefix ``module.`` that
    all names have is taken off.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If there is no state dict of tensors in it.
    """
    content, foreign = load_file_safely(path, trust)
    extras: dict[str, Any] = {}
    if isinstance(content, Mapping):
        for key in STATE_DICT_KEYS:
            if isinstance(content.get(key), Mapping):
                extras = {str(k): v for k, v in content.items() if k != key}
                content = content[key]
                break
    if not trust and isinstance(extras.get('meta'), dict):
        try:
            extras['meta'], _ = make_known_objects(extras['meta'])
        except Exception as error:  # as of any broken or hostile file
            raise CheckpointError(
                f'{path} cannot be read as a PyTorch checkpoint: {describe_error(error)}'
            ) from error
    return Checkpoint(check_state_dict(content, str(path)), extras, foreign)


def check_state_dict(content: Any, where: str) -> dict[str, Tensor]:
    """The mapping of names to tensors that ``content`` is.

    Raises:
        CheckpointError: If it is something else.
    """
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f'{where} holds no state dict, but {_describe(content)}; expected names and tensors, '
            'as they are or under "state_dict" or "model"'
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f'{where} holds no state dict of tensors: entry {str(name)[:200]!r} is '
                f'{_describe(value)}'
            )
    prefix = 'module.'
    if all(name.startswith(prefix) for name in content):
        return {name[len(prefix) :]: value for name, value in content.items()}
    return dict(content)


def _describe(value: Any) -> str:
    if isinstance(value, ForeignObject):
        return f'an object of {value.name}, which is not loaded without --trust'
    if isinstance(value, Mapping) and not value:
        return 'an empty mapping'
    return f'of type {type(value).__name__}'
