"""Checkpoints of training runs are loaded without running code that they may hold."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor

from pgseg_mm import limits
from pgseg_mm.integration import replace_checkpoint_loaders
from pgseg_mm.messages import first_of, shown
from pgseg_mm.serialization.digests import sha256_of

from .atomic_files import write_json
from .known_objects import KNOWN_NAMES, make_known_objects
from .loading import CheckpointError, describe_error, load_file_safely, refuse_foreign_file
from .locating import HUB, REMOTE, locate

HASH_IN_NAME = re.compile(r'-(?=\d*[a-f])([0-9a-f]{8,64})\.\w+$')
"""First digits of the SHA-256 at the end of a published file's name; digits alone may be a date, or
the number of an iteration."""
LOGGED_BYTES = 20
"""Of a logged value and its count in a pickle, at most."""


def load_training_checkpoint(
    filename: str | Path, map_location: Any = None, structure_only: bool = False
) -> Any:
    """Load a checkpoint of mmengine: tensors, plain values, and what a Runner logs.

    That are the kinds of :func:`.known_objects.make_known_objects`.

    Args:
        filename: The file, or what :func:`.locate` finds, but no address.
        map_location: As in :func:`torch.load`.
        structure_only: Whether to leave the numbers in the file; tensors have shapes only.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, or holds objects of other types.
    """
    if '://' in str(filename):
        raise CheckpointError(
            f'checkpoint {shown(filename)}: addresses of this kind are not known; give the path of '
            'a file, or an address that begins with http:// or https://'
        )
    path = locate(filename)
    loaded = load_file_safely(path, False, map_location, structure_only)
    try:
        checkpoint, left = make_known_objects(loaded.content)
    except Exception as error:
        raise CheckpointError(
            f'{path} cannot be read as a PyTorch checkpoint: {describe_error(error)}'
        ) from error
    if left:
        names = sorted((left | set(loaded.foreign)) - KNOWN_NAMES) or sorted(left)
        raise CheckpointError(
            f'checkpoint {path} was refused, because it could run code. It holds types that are '
            f'not loaded: {first_of(names)}. If you know where it comes from, '
            'load it with --trust, which runs whatever code it holds'
        )
    check_training_content(checkpoint, path)
    meta = checkpoint.get('meta')
    if meta is not None and meta.pop('config', None) is not None:
        # Runner.resume would run it, as the Python code of a config
        print_log(f'The config inside checkpoint {path} is not read.', logger='current')
    _drop_fused(checkpoint.get('optimizer'))
    return checkpoint


def _drop_fused(optimizer: Any) -> None:
    """Leave it to the config whether an optimizer is fused.

    PyTorch would take it from the checkpoint, and the fused ones look at no sizes of the state.
    """
    if not isinstance(optimizer, dict):
        return
    for state in (optimizer, *optimizer.values()):  # one optimizer, or several by their names
        groups = state.get('param_groups') if isinstance(state, dict) else None
        for group in groups if isinstance(groups, list) else ():
            if isinstance(group, dict):
                group.pop('fused', None)


def check_training_content(checkpoint: Any, path: Path) -> None:
    """Refuse a checkpoint whose parts are not what a Runner takes for granted.

    Raises:
        CheckpointError: If a part is of another kind.
    """

    def expect(ok: bool, what: str) -> None:
        if not ok:
            raise CheckpointError(f'{path} is a damaged training checkpoint: {what}')

    expect(isinstance(checkpoint, dict), f'it holds no mapping, but {_kind(checkpoint)}')
    for name in checkpoint:
        expect(isinstance(name, str), f'it has an entry that is {_kind(name)}')
    for name in ('state_dict', 'ema_state_dict', 'meta', 'message_hub', 'optimizer', 'data_state'):
        value = checkpoint.get(name)
        expect(value is None or isinstance(value, dict), f'its {name} is {_kind(value)}')
    for name in ('state_dict', 'ema_state_dict'):
        for key, value in (checkpoint.get(name) or {}).items():
            expect(
                isinstance(key, str) and (name != 'state_dict' or isinstance(value, Tensor)),
                f'its {name} has an entry {str(key)[:80]!r} that is {_kind(value)}',
            )
    meta = checkpoint.get('meta') or {}
    for name in ('epoch', 'iter'):
        value = meta.get(name, 0)
        expect(type(value) is int and 0 <= value < 2**48, f'its {name} is {_kind(value)}')
    seed = meta.get('seed')
    expect(seed is None or (type(seed) is int and 0 <= seed < 2**32), f'its seed is {_kind(seed)}')
    schedulers = checkpoint.get('param_schedulers')
    expect(
        schedulers is None or isinstance(schedulers, (dict, list)),
        f'its param_schedulers are {_kind(schedulers)}',
    )
    hub = checkpoint.get('message_hub')
    for name in ('log_scalars', 'runtime_info', 'resumed_keys') if hub is not None else ():
        value = hub.get(name)
        expect(isinstance(value, dict), f'its message_hub has {name} that is {_kind(value)}')
        for key in value:
            expect(isinstance(key, str), f'its message_hub has an entry {str(key)[:80]!r}')


def shorten_histories(checkpoint: dict[str, Any]) -> int | None:
    """Have the logged values of a long run keep within the limits of a checkpoint, half of which
    they may take; the oldest of each are left out.

    mmengine keeps a million values of each that is logged, as text in the pickle, about twenty
    bytes each.

    Args:
        checkpoint: What mmengine is about to save; changed in place.

    Returns:
        How many values are left of those that were too many; ``None`` if none were.
    """
    histories = (checkpoint.get('message_hub') or {}).get('log_scalars') or {}
    most = limits.CHECKPOINT_PICKLE_BYTES // 2 // LOGGED_BYTES // max(len(histories), 1)
    long = {name: each for name, each in histories.items() if len(each.data[0]) > most}
    for name, history in long.items():
        values, counts = history.data
        histories[name] = HistoryBuffer(values[-most:], counts[-most:], history.max_length)
    return most if long else None


def check_readable(path: Path) -> int:
    """Look at the structure of a training checkpoint, without its numbers.

    Objects that are loaded with ``--trust`` only do not matter if this process trusts checkpoints.

    Returns:
        Iterations that it has behind it.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, or could not be loaded.
    """
    if CheckpointLoader._schemes.get('') is load_training_checkpoint:
        checkpoint = load_training_checkpoint(path, structure_only=True)
    else:
        try:
            checkpoint = load_file_safely(path, structure_only=True).content
        except CheckpointError:  # trusted files know no limits
            checkpoint = load_trusted_checkpoint(path, 'cpu')
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    if not isinstance(meta, dict) or type(meta.get('iter')) is not int:
        raise CheckpointError(f'{path} is no training checkpoint: it has no meta with iter')
    if 'message_hub' not in checkpoint:
        raise CheckpointError(
            f'{path} is no training checkpoint: it has no message_hub, as one made ready for others'
        )
    return meta['iter']


def _kind(value: Any) -> str:
    if isinstance(value, float) or isinstance(value, int) and value.bit_length() < 256:
        return str(value)
    return f'of type {type(value).__name__}'


def load_trusted_checkpoint(filename: str | Path, map_location: Any = None) -> Any:
    """Load a local checkpoint and run whatever code it holds."""
    path = locate(filename)
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    refuse_foreign_file(path)
    try:
        return torch.load(path, map_location=map_location, weights_only=False)
    except Exception as error:  # a damaged file fails in any way
        raise CheckpointError(f'{path} cannot be read: {describe_error(error)}') from error


def load_remote_checkpoint(filename: str, map_location: Any = None) -> Any:
    """Download a checkpoint once for each machine, and load it as a local one.

    Raises:
        CheckpointError: It cannot be downloaded, or is none.
    """
    return load_training_checkpoint(locate(filename), map_location)


def cached_path(address: str) -> Path:
    """Where the checkpoint of an address is kept; another address is another file."""
    name = Path(urlparse(address).path).name[-100:] or 'checkpoint.pth'
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    return folder / f'{hashlib.sha256(address.encode()).hexdigest()[:16]}-{name}'


def fetch_checkpoint(address: str) -> Path:
    """Download a checkpoint unless it is there, as it was downloaded.

    A file beside it has the address and the checksum. What does not agree with it is downloaded
    again. Where the name ends in a hash, as in ``name-0123abcd.pth``, the file must have it.

    Returns:
        The local file.

    Raises:
        CheckpointError: If the file is another than its name says; it is removed.
    """
    path = cached_path(address)
    record = path.with_name(f'{path.name}.json')
    if path.is_file():
        if _read_record(record) == _record(address, path):
            return path
        print_log(
            f'{path} is not the file that was downloaded; it is downloaded again.',
            logger='current',
            level=logging.WARNING,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(address, str(path))
    fetched = _record(address, path)
    expected = HASH_IN_NAME.search(urlparse(address).path)
    if expected and not fetched['sha256'].startswith(expected[1]):
        path.unlink()
        raise CheckpointError(
            f'checkpoint {shown(address)} is not what its name says: what was downloaded has the '
            f'SHA-256 {fetched["sha256"]}, and was removed. Get the file elsewhere'
        )
    write_json(record, fetched)
    return path


def _record(address: str, path: Path) -> dict[str, str]:
    return {'address': address, 'sha256': sha256_of(path)}


def _read_record(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return None  # as if there were none: the file is downloaded again


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
        replace_checkpoint_loaders({'': load_trusted_checkpoint})
        return
    own = dict.fromkeys(('', HUB), load_training_checkpoint)
    remote = dict.fromkeys(REMOTE, load_remote_checkpoint)
    replace_checkpoint_loaders({**own, **remote}, refuse_checkpoint)
