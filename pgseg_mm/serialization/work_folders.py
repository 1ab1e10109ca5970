"""Folders of runs: who uses one, and which of its checkpoints a run can go on from."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from mmengine.logging import print_log

from pgseg_mm.files.reading import is_absent
from pgseg_mm.messages import shown

from .loading import CheckpointError
from .runner_checkpoints import check_readable

LOCK = '.run.lock'
POINTER = 'last_checkpoint'
"""File with the name of the newest checkpoint, which lies in the same folder as it."""
POINTER_CHARACTERS = 4096
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS)
_held: dict[Path, TextIO] = {}


class FolderInUseError(RuntimeError):
    """Another run writes to the same work folder."""


def lock_folder(folder: str | Path) -> None:
    """Keep other processes from training in a folder, until this one ends or unlocks it.

    The lock is the operating system's: it ends with the process, however that ends.

    Args:
        folder: Work folder; made if need be.

    Raises:
        FolderInUseError: Another process has locked it; the message says which.
    """
    folder = Path(folder).resolve()
    if folder in _held:
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK).open('a+', encoding='utf-8')
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        with file:
            if error.errno in _NO_LOCKS:
                print_log(
                    f'{folder} is on a file system without locks ({error}): see to it that no '
                    'other run uses it.',
                    logger='current',
                    level=logging.WARNING,
                )
                return
            file.seek(0)
            holder = file.read(500).strip() or 'a process that did not leave its name'
        raise FolderInUseError(
            f'the work folder {folder} is in use by {holder}; wait for its end, stop it, or give '
            'another --work-dir'
        ) from error
    file.seek(0)
    file.truncate()
    since = time.strftime('%Y-%m-%d %H:%M:%S')
    file.write(f'process {os.getpid()} on {socket.gethostname()} since {since}\n')
    file.flush()
    _held[folder] = file


def unlock_folder(folder: str | Path) -> None:
    """Let other processes train in a folder that this one has locked."""
    file = _held.pop(Path(folder).resolve(), None)
    if file is not None:
        file.close()


def find_checkpoint(
    folder: str | Path, templates: Iterable[str] = (), pointer: str | Path | None = None
) -> Path | None:
    """The checkpoint that a run in a folder goes on from.

    It is the one that the file ``last_checkpoint`` names, or else the newest that can be read; a
    warning says what was left aside and why. Only files of the folder itself are considered.

    Args:
        folder: Where the checkpoints are.
        templates: Names of checkpoints with ``{}`` for the step, beside ``iter_{}.pth`` and
            ``epoch_{}.pth``.
        pointer: The file that names the newest; by default ``last_checkpoint`` in the folder.

    Returns:
        The file; ``None`` if there are no checkpoints.

    Raises:
        CheckpointError: There are checkpoints, and none can be read.
    """
    folder = Path(folder)
    pointer = folder / POINTER if pointer is None else Path(pointer)
    named = _named(folder, pointer)
    kinds = [_numbered(folder, name) for name in {'iter_{}.pth', 'epoch_{}.pth', *templates}]
    reasons: list[str] = []
    if named is not None and _steps(named, reasons) is not None:
        return named
    found = []
    for paths in kinds:
        for path in paths:
            steps = None if path == named else _steps(path, reasons)
            if steps is not None:
                found.append((steps, path))
                break
    if found:
        chosen = max(found)[1]
        if named is None:
            reasons.append(f'{pointer} is missing or empty')
        print_log(
            f'Going on from {chosen}, the newest that can be used: {"; ".join(reasons)}.',
            logger='current',
            level=logging.WARNING,
        )
        return chosen
    if reasons:
        raise CheckpointError(
            f'none of the checkpoints in {folder} can be used: {"; ".join(reasons)}. Move them '
            'away, or give another --work-dir, to start anew'
        )
    return None


def _named(folder: Path, pointer: Path) -> Path | None:
    try:
        with pointer.open(encoding='utf-8', errors='replace') as file:
            # earlier versions and mmengine write a path, which is that of another folder in a copy
            name = Path(file.read(POINTER_CHARACTERS).strip().replace('\0', '')).name
    except FileNotFoundError:
        return None
    return folder / name if name else None


def _numbered(folder: Path, template: str) -> list[Path]:
    """Checkpoints of a template, the newest first."""
    before, _, after = template.partition('{}')
    pattern = re.compile(f'{re.escape(before)}([0-9]{{1,15}}){re.escape(after)}')
    if not folder.is_dir():
        return []
    matches = [pattern.fullmatch(entry.name) for entry in os.scandir(folder) if entry.is_file()]
    numbered = [(int(match[1]), folder / match[0]) for match in matches if match]
    return [path for _, path in sorted(numbered, reverse=True)]


def _steps(path: Path, reasons: list[str]) -> int | None:
    """Iterations that a checkpoint has behind it; ``None``, with the reason, if it is unusable."""
    try:
        return check_readable(path)
    except CheckpointError as error:
        reasons.append(str(error))
    except OSError as error:
        if not is_absent(error):
            raise
        reasons.append(shown(error))
    return None
