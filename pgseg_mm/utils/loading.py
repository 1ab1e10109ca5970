import os
import pickle
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .file_kinds import foreign_kind
from .unpickling import ForeignObject, inert_pickle_module

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


def load_file_safely(path: str | Path, trust: bool = False) -> LoadedFile:
    """Read a checkpoint file without running code that it may hold.

    ``torch.load(weights_only=True)`` comes first. Files that also hold objects of other types, such
    as the config of a training run, are then read with :class:`ForeignObject` in their place.

    Args:
        path: A file of ``torch.save``, or a ``.safetensors`` file.
        trust: Whether to unpickle everything. This runs whatever code the file asks for.

    Returns:
        The content, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is no checkpoint, or of a format that cannot be read safely.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f'{path} is a folder; give a checkpoint file')
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    refuse_foreign_file(path)
    try:
        if path.suffix == '.safetensors':
            return LoadedFile(load_file(path), ())
        if trust:
            return LoadedFile(torch.load(path, map_location='cpu', weights_only=False), ())
        _refuse_unsafe_format(path)
        try:
            return LoadedFile(torch.load(path, map_location='cpu', weights_only=True), ())
        except pickle.UnpicklingError:
            module = inert_pickle_module()
            content = torch.load(path, map_location='cpu', pickle_module=module, weights_only=False)
            return LoadedFile(content, tuple(sorted(module.foreign)))
    except CheckpointError:
        raise
    # a broken or hostile pickle can fail in any way
    except (Exception, RecursionError) as error:
        kind = 'safetensors' if isinstance(error, SafetensorError) else 'PyTorch'
        raise CheckpointError(
            f'{path} cannot be read as a {kind} checkpoint: '
            f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ""}'
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


def _refuse_unsafe_format(path: Path) -> None:
    advice = 'save its state dict with a current PyTorch, or use --trust if you trust its origin'
    if tarfile.is_tarfile(path):
        raise CheckpointError(
            f'{path} is in the tar format of PyTorch before 0.2, which cannot be read safely; '
            f'{advice}'
        )
    with path.open('rb') as file:
        is_zip = file.read(4) == b'PK\x03\x04'
    # the reader of torch.load itself: other readers may see other entries in a crafted archive
    if is_zip and 'constants.pkl' in torch._C.PyTorchFileReader(str(path)).get_all_records():
        raise CheckpointError(f'{path} is a TorchScript program, not a checkpoint; {advice}')


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
                f'{where} holds no state dict of tensors: entry {name!r} is {_describe(value)}'
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


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path`` and move it there when it is complete.

    Missing folders are made; an existing file is replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.', suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
