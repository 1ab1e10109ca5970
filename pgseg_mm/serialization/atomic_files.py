"""Files that are either the old one or the new one, whenever a process ends."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from safetensors import SafetensorError

from pgseg_mm import limits

ABANDONED_SECONDS = 24 * 3600
"""Age behind which a temporary file of another machine counts as left over."""
FAILED_WRITING = ('write failed', 'failed writing', 'unexpected pos', 'iostream', 'I/O error')
"""What torch and safetensors say of a full disk."""


def host_name() -> str:
    """A name of this machine, and of what numbers its processes: containers may share the name."""
    name = re.sub(r'[^A-Za-z0-9_-]', '_', socket.gethostname())[:64]
    try:
        return f'{name}-{re.sub(r"[^0-9]", "", os.readlink("/proc/self/ns/pid"))}'
    except OSError:  # not on Linux
        return name


HOST_NAME = host_name()
"""What temporary files are named after."""
_TEMPORARY = re.compile(r'\..+\.~(?P<host>[\w-]+)~(?P<process>\d+)~[0-9a-f]{8}(\.\w+)?')
_cleared: set[Path] = set()


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path`` and move it there when it is complete.

    Missing folders are made; an existing file is replaced. What processes that were killed have
    left half-written in the folder is removed.

    Raises:
        OSError: If it cannot be written, whatever the writer raises for a full disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent.resolve()
    if folder not in _cleared:
        _cleared.add(folder)
        clear_leftovers(folder)
    # its own name may be as long as names may be
    beginning = os.fsencode(path.name)[:60].decode('utf-8', 'ignore')
    temporary = path.with_name(
        f'.{beginning}.~{HOST_NAME}~{os.getpid()}~{secrets.token_hex(4)}{path.suffix}'
    )
    # the umask of the process applies, and a file that is there already is not opened
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        _write(temporary, path, write)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(temporary: Path, path: Path, write: Callable[[Path], object]) -> None:
    try:
        write(temporary)
    except (RuntimeError, SafetensorError) as error:
        # torch and safetensors have no error of their own for a full disk
        if any(words in str(error) for words in FAILED_WRITING):
            raise OSError(f'{path} cannot be written: {str(error).splitlines()[0]}') from error
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text; see :func:`write_atomically`."""
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode()))


def write_json(path: str | Path, content: Any, indent: int = 1) -> None:
    """Write JSON; see :func:`write_atomically`."""
    write_text(path, json.dumps(content, indent=indent) + '\n')


def read_state(path: str | Path, consequence: str) -> dict[str, Any] | None:
    """Read a JSON object that a tool has kept for itself, such as a result.

    Args:
        path: The file.
        consequence: What the tool does without it, for the warning.

    Returns:
        The object; ``None``, with a warning that names the file, if it is damaged.
    """
    path = Path(path)
    try:
        if path.stat().st_size > limits.STATE_FILE_BYTES:
            raise ValueError(f'it has more than {limits.STATE_FILE_BYTES} bytes')
        content = json.loads(path.read_text(encoding='utf-8'))
        if isinstance(content, dict):
            return content
        reason = 'it holds no JSON object'
    except (ValueError, RecursionError) as error:
        reason = str(error)
    print_log(
        f'{path} is damaged ({reason[:200]}): {consequence}.',
        logger='current',
        level=logging.WARNING,
    )
    return None


def clear_leftovers(folder: str | Path) -> list[Path]:
    """Remove what processes that are gone have left half-written in a folder.

    Files of processes of this machine that run, and those of other machines that are younger than
    a day, stay.

    Returns:
        The files that were removed.
    """
    removed = []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith('.')]
    for name in names:
        match = _TEMPORARY.fullmatch(name)
        path = Path(folder, name)
        if match and _is_abandoned(path, match['host'], int(match['process'])):
            # another process may be clearing the same folder
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                removed.append(path)
    return removed


def _is_abandoned(path: Path, host: str, process: int) -> bool:
    if host == HOST_NAME:
        return not is_running(process)
    try:
        return time.time() - path.lstat().st_mtime > ABANDONED_SECONDS
    except FileNotFoundError:
        return False


def is_running(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
