"""Watches what a process does while it reads a hostile input: events, files, imports, memory."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
MEMORY_ALLOWANCE = 2**30
FORBIDDEN = (
    'exec',
    'os.chmod',
    'os.chown',
    'os.exec',
    'os.fork',
    'os.forkpty',
    'os.kill',
    'os.link',
    'os.mkdir',
    'os.posix_spawn',
    'os.putenv',
    'os.remove',
    'os.rename',
    'os.rmdir',
    'os.spawn',
    'os.startfile',
    'os.symlink',
    'os.system',
    'os.truncate',
    'os.utime',
    'pty.spawn',
    'shutil.rmtree',
    'shutil.move',
    'socket.bind',
    'socket.connect',
    'socket.getaddrinfo',
    'socket.gethostbyname',
    'subprocess.Popen',
    'urllib.Request',
    'webbrowser.open',
)
"""Audit events that no input may cause."""
ON_FILES = tuple(
    event
    for event in FORBIDDEN
    if event.startswith('os.')
    and event[3:]
    in ('chmod', 'link', 'mkdir', 'remove', 'rename', 'rmdir', 'symlink', 'truncate', 'utime')
)
"""Of these, those that are harmless in the folder of the payload."""


class Watch:
    """What a process does while a case is tried.

    Args:
        folder: Where files may be opened, also to write.
        readable: Where files may be read.
        allowed: Events of :data:`FORBIDDEN` that are none here.
    """

    def __init__(self, folder: Path, readable: list[Path], allowed: Sequence[str] = ()) -> None:
        self._forbidden = set(FORBIDDEN) - set(allowed)
        checkout = TESTS.parent
        libraries = [Path(path) for path in sys.path if path and Path(path) != checkout]
        read = [Path(sys.prefix), Path(sys.base_prefix), TESTS, checkout / 'pgseg_mm', *libraries]
        read += [*readable, Path('/sys'), Path('/usr/share'), Path('/etc/ssl')]
        self._folder = os.path.realpath(folder)
        self._readable = tuple(os.path.realpath(path) for path in read) + ('/proc/self',)
        self._active = False
        self._seen: list[str] = []
        self._ceiling = 0
        self.growth = 0
        sys.addaudithook(self._audit)

    def over(self, memory: int) -> Watch:
        """Watch within the context, with so many bytes beyond what the process has."""
        self._memory = memory
        return self

    def __enter__(self) -> None:
        self._seen = []
        self._children = _children()
        _reset_peak()
        self._before = _status('VmRSS')
        virtual = _status('VmSize') + self._memory + MEMORY_ALLOWANCE
        resource.setrlimit(resource.RLIMIT_AS, (virtual, resource.RLIM_INFINITY))
        self._active = True

    def __exit__(self, *_: object) -> None:
        self._active = False
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        self.growth = max(0, _status('VmHWM') - self._before)

    def faults(self) -> list[str]:
        """What was seen that must not be."""
        found = list(dict.fromkeys(self._seen))[:5]
        if self.growth > self._memory:
            found.append(f'took {self.growth >> 20} MB of memory')
        if _children() - self._children:
            found.append('left a process behind')
        return found

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._active:
            return
        if event in self._forbidden:
            # code objects of lazily imported modules are executed by their import
            if (event == 'exec' and _is_import()) or self._is_within(event, args):
                return
            self._seen.append(f'{event} {str(args)[:120]}')
        elif event == 'import':
            self._check_import(args[0])
        elif event in ('open', 'os.listdir', 'os.scandir'):
            self._check_open(event, args)

    def _is_within(self, event: str, args: tuple[Any, ...]) -> bool:
        """Whether an event changes files of the payload's folder, and no others."""
        paths = [path for path in args if isinstance(path, str | bytes | os.PathLike)]
        within = all(os.path.realpath(os.fsdecode(p)).startswith(self._folder) for p in paths)
        return event in ON_FILES and bool(paths) and within

    def _check_import(self, name: Any) -> None:
        if name in sys.modules or not isinstance(name, str):
            return
        if not _asked_by_code():
            self._seen.append(f'import {name[:80]}')

    def _check_open(self, event: str, args: tuple[Any, ...]) -> None:
        path = args[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        real = os.path.realpath(os.fsdecode(path))
        writes = event == 'open' and len(args) > 2 and _is_write(args[1], args[2])
        if real.startswith(self._folder) or real == os.devnull:
            return
        if not writes and real.startswith(self._readable):
            return
        self._seen.append(f'{event} {real[:120]}{" to write" if writes else ""}')


def _is_write(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in 'wax+')
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _frames() -> Iterator[Any]:
    frame = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_import() -> bool:
    return any('importlib' in frame.f_code.co_filename for frame in _frames())


def _asked_by_code() -> bool:
    """Whether the statement that imports is one of a module, and not a name that was given."""
    for frame in _frames():
        file = frame.f_code.co_filename
        if 'importlib' in file or file == __file__:
            continue
        return frame.f_code.co_name != 'find_class' and 'pickle' not in file
    return False


def _children() -> set[str]:
    tasks = Path('/proc/self/task').glob('*/children')
    return {child for task in tasks for child in task.read_text().split()}


def _reset_peak() -> None:
    Path('/proc/self/clear_refs').write_text('5')


def _status(key: str) -> int:
    """Bytes that Linux names for this process."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{key}:'):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f'/proc/self/status has no {key}')
