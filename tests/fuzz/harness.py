"""Tries hostile inputs in a process of its own, and watches what they do there.

A target is a module ``fuzz_NAME`` beside this one with

- ``cases(seed)``, an endless iterator of names and payloads, the same for the same seed. A name
  stands for one payload; bytes are written to a file, whose suffix may stand in the name behind
  ``::`` (``'deep list 7::.json'``), anything else is passed on as it is and must be picklable;
- ``attempt(payload)``, which gives the file's path or the payload to the code under attack;
- ``REFUSALS``, the errors that are the right answer to a hostile input;
- optionally ``prepare()``, called once in each process, such as to import and to warm up,
  ``finish()``, called when it ends in peace, ``reads()``, folders and files beside the payload's
  folder that may be read, and ``ALLOWED``, events of :data:`.watch.FORBIDDEN` that it needs.

A finding is any other error, an event of :data:`.watch.FORBIDDEN`, a module imported or a file
opened elsewhere, more memory or time than is allowed, a process that stays behind or is killed.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import pickle
import shutil
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

from .watch import MEMORY_ALLOWANCE, TESTS, Watch

SELF_TEST = 'misbehaving'
REFUSED, ACCEPTED = 'refused', 'accepted'
SECONDS_PER_CASE = 30
SECONDS_TO_START = 300
LONGEST_MESSAGE = 600


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
        watch = Watch(Path(folder), readable, getattr(target, 'ALLOWED', ()))
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


def _try(target: Any, watch: Watch, case: str, payload: Any, folder: Path) -> Answer:
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
