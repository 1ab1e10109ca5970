"""Files that are kept between runs: whole or made anew, and by one process at a time."""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.logging import print_log

from pgseg_mm.messages import first_line
from pgseg_mm.serialization.atomic_files import write_json
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.locating import expanded

READ_BYTES = 2**20
MAX_RECORD_BYTES = 2**16
WAIT_SECONDS = 3600.0
"""How long another process may take to download or convert."""


class CacheError(CheckpointError):
    """What was made cannot be kept."""


def cache_folder() -> Path:
    """Where checkpoints are kept: below ``PGSEG_CACHE``, or ``~/.cache/pgseg_mm``."""
    root = os.environ.get('PGSEG_CACHE') or '~/.cache/pgseg_mm'
    return expanded(root) / 'checkpoints'


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """A file that is made once, and again if it is not what was made.

    Processes that want the same file wait for the one that makes it. One that is killed meanwhile
    leaves nothing that counts.

    Args:
        name: Name of the file, which says what is in it: another content has another name.
        make: Writes the file whole or not at all, as :func:`.write_atomically` does.

    Returns:
        Its path.

    Raises:
        CacheError: If it cannot be kept.
    """
    path = cache_folder() / name
    record = path.with_name(f'{name}.json')
    if is_whole(path, record):
        return path
    with cache_failures(), locked(path):
        if not is_whole(path, record):
            if record.is_file():
                print_log(
                    f'{path} is not what was made; it is made anew.',
                    logger='current',
                    level=logging.WARNING,
                )
                record.unlink()
            make(path)
            write_json(record, _describe(path))
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes of this machine out, until the context or the process ends.

    Args:
        path: What is made meanwhile; the lock lies beside it, in a folder that is made if need be.

    Raises:
        OSError: If nothing can be written there, or another process takes longer than an hour.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f'.{path.name}.lock'), timeout=WAIT_SECONDS):
        yield


@contextmanager
def cache_failures() -> Iterator[None]:
    """Say in one sentence why nothing can be kept, and what to do."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f'{cache_folder()} cannot be written to ({first_line(error)}); make room there, or set '
            'PGSEG_CACHE to a folder that you may write to'
        ) from error


def is_whole(path: Path, record: Path) -> bool:
    """Whether a file is there as its record describes it."""
    if not path.is_file() or not record.is_file():
        return False
    try:
        if record.stat().st_size > MAX_RECORD_BYTES:
            return False
        expected = json.loads(record.read_text(encoding='utf-8'))
    except (ValueError, RecursionError):
        return False  # the file is made anew
    return expected == _describe(path)


def _describe(path: Path) -> dict[str, int]:
    """Size and CRC-32, which tells damage and takes a third of the time of a secure hash."""
    checksum = 0
    with path.open('rb') as file:
        while piece := file.read(READ_BYTES):
            checksum = zlib.crc32(piece, checksum)
    return {'bytes': path.stat().st_size, 'crc32': checksum}
