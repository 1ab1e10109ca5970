"""Runs attempts in a child process that is watched: memory, files, imports, sockets, crashes."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

FORBIDDEN = ('os.remove', 'os.rename', 'os.rmdir', 'os.system', 'os.exec', 'os.posix_spawn')
FORBIDDEN += ('subprocess.', 'socket.', 'shutil.', 'ctypes.', 'import', 'exec', 'pickle.find_class')
FORBIDDEN += ('urllib.', 'marshal.', 'os.mkdir', 'os.chmod', 'os.truncate', 'os.fork', 'os.putenv')
SPARE_BYTES = 10**9
SECONDS = 300


class Watch:
    """An audit hook that notes what a file must not bring about."""

    def __init__(self) -> None:
        self.allowed: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        if self.allowed is None:
            return
        if event == 'open':
            if isinstance(args[0], int) or os.fspath(args[0]) == self.allowed:
                return
        elif not event.startswith(FORBIDDEN):
            return
        self.seen.append(f'{event} {args!r}'[:300])


def peak() -> int:
    """Most bytes that this process had since the last reset."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmHWM'):
            return int(line.split()[1]) * 1024
    raise RuntimeError('/proc/self/status has no VmHWM')


def child(
    batch: list[tuple[str, bytes]],
    attempt: Callable[[Path], None],
    good: list[tuple[str, bytes]],
    folder: Path,
    report: Path,
) -> None:
    """Run a batch; the report has a line for each case, and the last one if it does not return."""
    watch = Watch()
    with report.open('w', buffering=1) as lines:
        for number, (name, content) in enumerate([*good, *batch]):
            path = folder / name
            path.write_bytes(content)
            lines.write(f'{name}\t')
            lines.flush()
            Path('/proc/self/clear_refs').write_text('5')
            before, start = peak(), time.perf_counter()
            signal.alarm(SECONDS)
            if number >= len(good):
                watch.allowed = str(path)
            wrong = ''
            try:
                attempt(path)
            except BaseException as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                wrong = (
                    f'{type(error).__name__}: {str(error)[:200]!r} {last.filename}:{last.lineno}'
                )
            watch.allowed = None
            signal.alarm(0)
            grown, seconds = peak() - before, time.perf_counter() - start
            if grown > 2 * len(content) + SPARE_BYTES:
                wrong += f' {grown / 1e6:.0f} MB for a file of {len(content) / 1e6:.1f} MB'
            wrong += ' '.join(watch.seen)
            watch.seen.clear()
            lines.write(f'{grown}\t{seconds:.2f}\t{wrong}\n')
            path.unlink()


def run(
    cases: Iterable[tuple[str, bytes]],
    attempt: Callable[[Path], None],
    good: Iterable[tuple[str, bytes]],
    number: int,
    batch_size: int = 250,
) -> int:
    """Run a number of cases and print what went wrong.

    Returns:
        Exit status: 0 if nothing did.
    """
    stream, good = islice(cases, number), list(good)
    failures: list[str] = []
    most, slowest, done = (0, ''), (0.0, ''), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        while batch := list(islice(stream, batch_size)):
            while batch:
                report = folder / 'report'
                process = os.fork()
                if process == 0:
                    try:
                        child(batch, attempt, good, folder, report)
                    finally:
                        os._exit(0)
                _, status = os.waitpid(process, 0)
                rows = [line.split('\t') for line in report.read_text().splitlines()]
                complete = [row for row in rows if len(row) == 4]
                for row in complete:
                    most = max(most, (int(row[1]), row[0]))
                    slowest = max(slowest, (float(row[2]), row[0]))
                    if row[3]:
                        failures.append(f'{row[0]}: {row[3]}')
                        print(failures[-1], flush=True)
                tried = max(len(complete) - len(good), 0)
                if len(rows) > len(complete):
                    failures.append(f'{rows[-1][0]}: the process ended, status {status}')
                    print(failures[-1], flush=True)
                    tried += 1
                elif tried < len(batch):
                    raise RuntimeError(f'the child ended early: {rows[-1:]}, status {status}')
                done += tried
                print(f'{done} cases, most {most}, longest {slowest}', flush=True)
                batch = batch[tried:]
    print(f'{done} cases, {len(failures)} failures')
    print(
        f'most memory: {most[0] / 1e6:.0f} MB ({most[1]}), longest: {slowest[0]} s ({slowest[1]})'
    )
    return 1 if failures else 0
