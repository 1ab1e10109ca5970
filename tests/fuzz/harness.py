"""Tries hostile inputs in a process of its own, and watches what they do there.

A target is a module ``fuzz_NAME`` beside this one with

- ``cases(seed)``, an endless iterator of names and payloads, the same for the same seed. A name
  stands for one payload; bytes are written to a file, whose suffix may stand in the name behind
  ``::`` (``'deep list 7::.json'``), anything else is passed on as it is and must be picklable;
- ``attempt(payload)``, which gives the file's path or the payload to the code under attack;
- ``REFUSALS``, the errors that are the right answer to a hostile input;
- optionally ``prepare()``, called once in each process, such as to import and to warm up,
  ``finish()``, called when it ends in peace, ``reads()``, folders and files beside the payload's
  folder that may be read, and ``ALLOWED``, events of :data:`FORBIDDEN` that it needs itself.

A finding is any other error, an event of :data:`FORBIDDEN`, a module imported or a file opened
elsewhere, more memory or time than is allowed, a process that stays behind or is killed.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import pickle
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).resolve().parents[1]
SELF_TEST = 'misbehaving'
REFUSED, ACCEPTED = 'refused', 'accepted'
SECONDS_PER_CASE = 30
SECONDS_TO_START = 300
MEMORY_ALLOWANCE = 2**30
LONGEST_MESSAGE = 600
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


class Finding(NamedTuple):
    """What a case did that it must not."""

    target: str
    seed: int
    case: str
    what: str

    def __str__(self) -> str:
        return f'seed {self.seed}, {self.case}: {self.what}'


@dataclass
class Report:
    """What came of the cases of a target."""

    cases: int = 0
    seconds: float = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    peak_growth: int = 0
    """Bytes that a case took beyond what the process had."""


def targets() -> list[str]:
    """Names of the targets, without that of the harness's own test."""
    names = {module.stem.removeprefix('fuzz_') for module in TESTS.glob('fuzz/fuzz_*.py')}
    return sorted(names - {SELF_TEST})


def load_target(name: str) -> Any:
    """The module of a target."""
    return importlib.import_module(f'{__package__}.fuzz_{name}')


def fuzz(
    name: str,
    seed: int = 0,
    cases: int | None = None,
    seconds: float = 60,
    keep: Path | None = None,
    only: str | None = None,
    seconds_per_case: float = SECONDS_PER_CASE,
) -> Report:
    """Try the cases of a target, until there are so many or the time is over.

    Args:
        name: The target.
        seed: Of its cases.
        cases: Number of cases at most.
        seconds: For all of them, from the first one on.
        keep: Folder for the payloads of findings.
        only: Name of the one case to try.
        seconds_per_case: For one of them.
    """
    report = Report()
    source = load_target(name).cases(seed)
    if only is not None:
        source = islice((case for case in source if case[0] == only), 1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='fuzz_') as folder, _Worker(name, folder) as worker:
        for number in count():
            if number == 0:
                worker.start()
                began = time.monotonic()
            if number == cases or time.monotonic() - began > seconds:
                break
            case, payload = next(source, (None, None))
            if case is None:
                break
            answer = worker.attempt(case, payload, seconds_per_case)
            report.cases += 1
            report.outcomes[answer.outcome] += 1
            report.peak_growth = max(report.peak_growth, answer.growth)
            if answer.faults:
                report.findings.append(Finding(name, seed, case, '; '.join(answer.faults)))
                if keep is not None:
                    _keep(keep, name, seed, case, payload)
    report.seconds = time.monotonic() - began
    return report


def _keep(folder: Path, name: str, seed: int, case: str, payload: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    plain = ''.join(letter if letter.isalnum() else '_' for letter in case)[:80]
    content = payload if isinstance(payload, bytes) else pickle.dumps(payload)
    (folder / f'{name}_{seed}_{plain}').write_bytes(content)


class Answer(NamedTuple):
    """What came of a case."""

    outcome: str
    faults: tuple[str, ...] = ()
    growth: int = 0


class _Worker:
    """The process that cases are tried in; a new one for each that has died."""

    def __init__(self, name: str, folder: str) -> None:
        self._name, self._folder = name, folder
        self._context = multiprocessing.get_context('spawn')
        self._process: Any = None
        self._pipe: Any = None

    def start(self) -> None:
        if self._process is not None:
            return
        self._pipe, theirs = self._context.Pipe()
        args = (self._name, self._folder, theirs)
        self._process = self._context.Process(target=_serve, args=args, daemon=True)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(SECONDS_TO_START):
            raise RuntimeError(f'target {self._name} did not start in {SECONDS_TO_START} s')
        message = self._pipe.recv()
        if message != 'ready':
            raise RuntimeError(f'target {self._name} cannot be prepared: {message}')

    def attempt(self, case: str, payload: Any, seconds: float) -> Answer:
        self.start()
        try:
            self._pipe.send((case, payload))
            if self._pipe.poll(seconds):
                return self._pipe.recv()
            fault = f'took more than {seconds:g} s'
        except (EOFError, OSError):
            self._process.join(10)
            fault = f'the process ended with exit status {self._process.exitcode}'
        self._end()
        return Answer('lost', (fault,))

    def _end(self, in_peace: bool = False) -> None:
        if self._process is not None:
            self._pipe.close()
            if in_peace:
                self._process.join(SECONDS_PER_CASE)
            self._process.kill()
            self._process.join()
        self._process = None

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(in_peace=True)


def _serve(name: str, folder: str, pipe: Any) -> None:
    """The process: prepare, then answer one case after another."""
    logging.disable(logging.CRITICAL)  # a line for each case
    try:
        target = load_target(name)
        getattr(target, 'prepare', lambda: None)()
        readable = [Path(path) for path in getattr(target, 'reads', list)()]
        watch = _Watch(Path(folder), readable, getattr(target, 'ALLOWED', ()))
    except BaseException:
        pipe.send(traceback.format_exc())
        raise
    pipe.send('ready')
    while True:
        try:
            case, payload = pipe.recv()
        except EOFError:
            getattr(target, 'finish', lambda: None)()
            return
        pipe.send(_try(target, watch, case, payload, Path(folder) / 'payload'))


def _try(target: Any, watch: _Watch, case: str, payload: Any, folder: Path) -> Answer:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    size = 0
    if isinstance(payload, bytes):
        path = folder / f'payload{case.rpartition("::")[2] if "::" in case else ""}'
        path.write_bytes(payload)
        size, payload = len(payload), str(path)
    outcome, faults = ACCEPTED, []
    with watch.over(2 * size + MEMORY_ALLOWANCE):
        try:
            target.attempt(payload)
        except target.REFUSALS as error:
            outcome = REFUSED
            if len(str(error)) > LONGEST_MESSAGE:
                faults.append(f'a message of {len(str(error))} characters: {str(error)[:80]}')
        except BaseException as error:
            outcome = 'failed'
            where = traceback.extract_tb(error.__traceback__)[-1]
            faults.append(f'{type(error).__name__}: {str(error)[:200]} ({where.name})')
    faults += watch.faults()
    return Answer(outcome, tuple(dict.fromkeys(faults)), watch.growth)


class _Watch:
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

    def over(self, memory: int) -> _Watch:
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


def mutate(rng: Any, content: bytes, most: int = 8) -> bytes:
    """A file with some bytes changed, cut out, doubled, or replaced by telling ones.

    Args:
        rng: A ``random.Random``.
        content: The file.
        most: Changes at most.
    """
    data = bytearray(content)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(data) + 1)
        change = rng.choice(CHANGES)
        data = change(rng, data, at)
    return bytes(data)


def _flip(rng: Any, data: bytearray, at: int) -> bytearray:
    if at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    return data


def _put(rng: Any, data: bytearray, at: int) -> bytearray:
    token = rng.choice(TOKENS)
    data[at : at + len(token)] = token
    return data


def _insert(rng: Any, data: bytearray, at: int) -> bytearray:
    data[at:at] = rng.choice(TOKENS)
    return data


def _cut(rng: Any, data: bytearray, at: int) -> bytearray:
    del data[at : at + rng.choice([1, 7, 512, len(data)])]
    return data


def _double(rng: Any, data: bytearray, at: int) -> bytearray:
    data[at:at] = data[at : at + rng.choice([1, 16, 512])]
    return data


CHANGES: list[Callable[[Any, bytearray, int], bytearray]] = [_flip, _put, _insert, _cut, _double]
TOKENS = [
    b'\0',
    b'\xff',
    b'\xff\xff\xff\xff',
    b'\x7f\xff\xff\xff\xff\xff\xff\xff',
    b'\x80\x00\x00\x00\x00\x00\x00\x01',
    b'-1',
    b'9' * 30,
    b'../',
    b'/etc/passwd',
    b'http://127.0.0.1:1/',
    b'\xed\xa0\x80',
    b'\xef\xbb\xbf',
    b'%s%n',
    b'"',
    b'\\',
    b'\r\n',
    b'[{',
    b'NaN',
    b'1e999',
]
