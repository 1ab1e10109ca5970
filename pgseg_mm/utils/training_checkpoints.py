"""Checkpoints of training runs are loaded without running code that they may hold."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, get_local_rank
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader

from .loading import CheckpointError, refuse_foreign_file

REMOTE = ('http://', 'https://')


def _statistic_of_history(owner: Any, name: str) -> Any:
    """Stands in for ``getattr``, by which history buffers name their methods, and only them."""
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f'it asks for attribute {name!r} of {owner!r}')


def _history_dtype(*args: Any, **kwargs: Any) -> np.dtype:
    """Stands in for ``numpy.dtype``: plain numbers and text."""
    dtype = np.dtype(*args, **kwargs)
    if dtype.hasobject:
        raise pickle.UnpicklingError('it holds an array of objects')
    return dtype


def allowed_types() -> list[Any]:
    """What mmengine's checkpoints hold beside tensors and plain Python values.

    History buffers of logged values, and NumPy's arrays, scalars and dtypes.

    Returns:
        A list for :class:`torch.serialization.safe_globals`.
    """
    core = np._core if hasattr(np, '_core') else np.core
    numpy_types: list[Any] = [np.ndarray, np.dtype, core.multiarray._reconstruct]
    numpy_types += [core.multiarray.scalar, *{type(np.dtype(t)) for t in 'bBhHiIlLqQefdg?SU'}]
    # the names of NumPy 1 and 2, whichever wrote the file
    renamed = [
        (getattr(core.multiarray, name), f'numpy.{module}.multiarray.{name}')
        for name in ('_reconstruct', 'scalar')
        for module in ('core', '_core')
    ]
    return [
        HistoryBuffer,
        slice,
        *numpy_types,
        *renamed,
        (_statistic_of_history, 'builtins.getattr'),
    ]


def load_training_checkpoint(filename: str | Path, map_location: Any = None) -> Any:
    """Load a local checkpoint of mmengine, with the types of :func:`allowed_types` only.

    Args:
        filename: The file.
        map_location: As in :func:`torch.load`.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, or names other types.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    refuse_foreign_file(path)
    try:
        with torch.serialization.safe_globals(allowed_types()):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_describe_refusal(path, error)) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(
            f'checkpoint {path} is damaged or no checkpoint of PyTorch: '
            f'{str(error).splitlines()[0] if str(error) else type(error).__name__}'
        ) from error
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    if isinstance(meta, dict) and meta.pop('config', None) is not None:
        # Runner.resume would run it, as the Python code of a config
        print_log(f'The config inside checkpoint {path} is not read.', logger='current')
    return checkpoint


def _describe_refusal(path: Path, error: pickle.UnpicklingError) -> str:
    names: list[str] = []
    if hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'):
        try:
            with torch.serialization.safe_globals(allowed_types()):
                names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        except (pickle.UnpicklingError, ValueError, RuntimeError):
            names = []
    what = f'types that are not loaded: {", ".join(names)}' if names else str(error).split('. ')[0]
    return (
        f'checkpoint {path} was refused, because it could run code. It holds {what}. If you know '
        'where it comes from, load it with --trust, which runs whatever code it holds'
    )


def load_trusted_checkpoint(filename: str | Path, map_location: Any = None) -> Any:
    """Load a local checkpoint and run whatever code it holds."""
    path = Path(filename).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    refuse_foreign_file(path)
    return torch.load(path, map_location=map_location, weights_only=False)


def load_remote_checkpoint(filename: str, map_location: Any = None) -> Any:
    """Download a checkpoint once for each machine, and load it as a local one."""
    path = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(filename).path).name
    if get_local_rank() == 0 and not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(filename, str(path))
    barrier()
    return load_training_checkpoint(path, map_location)


def refuse_checkpoint(filename: str, map_location: Any = None) -> Any:
    """Refuse an address of a kind that mmengine would unpickle.

    Raises:
        CheckpointError: Always.
    """
    raise CheckpointError(
        f'checkpoint {filename}: addresses of this kind cannot be loaded without running code that '
        'they may hold; download the file and give its path, or use --trust'
    )


def load_checkpoints_safely(trust: bool = False) -> None:
    """Let mmengine load all checkpoints of this process safely, on either distribution.

    It concerns ``load_from``, ``--resume`` and ``init_cfg=dict(type='Pretrained')``.

    Args:
        trust: Whether to run the code that a checkpoint holds, instead.
    """
    if trust:
        CheckpointLoader.register_scheme('', load_trusted_checkpoint, force=True)
        return
    others = [prefix for prefix in CheckpointLoader._schemes if prefix not in ('', *REMOTE)]
    CheckpointLoader.register_scheme(others, refuse_checkpoint, force=True)
    CheckpointLoader.register_scheme(REMOTE, load_remote_checkpoint, force=True)
    CheckpointLoader.register_scheme('', load_training_checkpoint, force=True)
