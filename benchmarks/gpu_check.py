"""Proves on one GPU that training, prediction and loading are right, and measures how fast.

    python -m benchmarks.gpu_check [--stages correct step ...] [--minutes 8] [--resume]

Stages run one after the other, each in a process of its own with its own time limit; one that fails
or runs over does not stop the others. After every stage docs/benchmarks/gpu.md and
docs/benchmarks/raw/gpu.json are written. With --device cpu --small every stage runs dry in about a
minute, and nothing goes into docs/. The exit status is 0 if nothing failed, 1 if something did, and
2 if the check cannot be run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from pgseg_mm.cli.provenance import describe_machine, versions
from pgseg_mm.serialization.atomic_files import write_json, write_text

from .gpu.report import report

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs' / 'benchmarks'
DRY_RUN_FOLDER = ROOT / 'work_dirs' / 'gpu_check'
KEPT_LOG = 2000
"""Characters of a stage's output that are kept if it does not end well."""
GRACE = 5.0
"""Seconds between a stage's own limit and its end by force."""
MORE_LIBRARIES = ('transformers', 'triton', 'numpy', 'scipy', 'opencv-python', 'open_clip_torch')


@dataclass(frozen=True)
class StageEntry:
    """A stage: its command, and its share of the time."""

    name: str
    command: tuple[str, ...]
    seconds: float
    """How long it may take of eight minutes."""


def _module(name: str, seconds: float) -> StageEntry:
    return StageEntry(name, ('-m', f'benchmarks.gpu.{name}'), seconds)


STAGES = (
    _module('correct', 85),
    _module('step', 190),
    _module('capacity', 40),
    _module('matching', 35),
    _module('data', 65),
    _module('inference', 65),
)


def commit() -> str:
    """The commit that is measured, with a + behind it if files differ from it."""
    file = ROOT / 'COMMIT'  # a bundle has no repository
    if file.is_file():
        return file.read_text(encoding='utf-8').strip()
    ask = ('git', '-C', str(ROOT))
    head = subprocess.run([*ask, 'rev-parse', '--short=12', 'HEAD'], capture_output=True, text=True)
    if head.returncode:
        return 'unknown'
    # what the check itself writes does not count
    paths = ('status', '--porcelain', '--', '.', ':!docs/benchmarks')
    changed = subprocess.run([*ask, *paths], capture_output=True, text=True)
    return head.stdout.strip() + ('+' if changed.stdout.strip() else '')


def driver() -> str | None:
    """Version of the GPU's driver, if it can be asked for."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        ask = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
        done = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.split('\n')[0].strip() or None
    return None


def environment(device: str) -> dict[str, Any]:
    """What the figures are of: the machine, the versions, and the commit."""
    machine = describe_machine()
    if device == 'cpu':
        machine['accelerator'] = None
    return {
        'machine': machine,
        'driver': driver() if device == 'cuda' else None,
        'cuda': torch.version.cuda,
        'versions': versions(*MORE_LIBRARIES),
        'commit': commit(),
    }


def is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two environments are the same machine at the same commit."""
    keys = ('accelerator', 'processor', 'torch', 'python')
    return one.get('commit') == other.get('commit') and all(
        one.get('machine', {}).get(key) == other.get('machine', {}).get(key) for key in keys
    )


class Check:
    """Runs stages and writes the report after each.

    Args:
        out: Folder for ``gpu.md`` and ``raw/gpu.json``.
        device: ``'cuda'`` or ``'cpu'``.
        small: Whether it is a dry run.
        minutes: How long all stages may take together.
        command: How the check was called.
    """

    def __init__(self, out: Path, device: str, small: bool, minutes: float, command: str) -> None:
        self.page, self.raw = out / 'gpu.md', out / 'raw' / 'gpu.json'
        self.parts = out / 'raw' / 'parts'
        self.device, self.small, self.minutes = device, small, minutes
        self.result: dict[str, Any] = {
            **environment(device),
            'command': command,
            'date': datetime.now(timezone.utc).strftime('%Y-%m-%d'),
            'device': device,
            'small': small,
            'stages': {},
        }

    def keep_earlier(self) -> list[str]:
        """Take over the stages of an earlier run at the same commit on the same machine.

        Returns:
            Their names: those that came to their end with nothing failed.
        """
        if not self.raw.is_file():
            return []
        earlier = json.loads(self.raw.read_text(encoding='utf-8'))
        alike = earlier.get('small') == self.small and earlier.get('device') == self.device
        if not alike or not is_same(earlier, self.result):
            print('the earlier results are of another commit or machine and are not kept')
            return []
        kept = {n: s for n, s in earlier['stages'].items() if s['status'] == 'passed'}
        self.result['stages'].update(kept)
        self.parts.mkdir(parents=True, exist_ok=True)
        for name, stage in kept.items():
            (self.parts / f'{name}.json').write_text(json.dumps(stage['pieces']), encoding='utf-8')
        return list(kept)

    def run(self, stages: Sequence[StageEntry]) -> bool:
        """Run stages one after the other.

        Returns:
            Whether nothing has failed.
        """
        end = time.monotonic() + 60 * self.minutes
        before_step = 'step' in [entry.name for entry in stages[1:]]
        warming = self._start_compiling() if before_step else None
        try:
            for index, entry in enumerate(stages):
                if warming is not None and entry.name == 'step':
                    _kill(warming)
                share = entry.seconds / sum(stage.seconds for stage in stages[index:])
                left = end - time.monotonic()
                # what earlier stages did not need is there for later ones
                limit = max(entry.seconds * self.minutes / 8, left * share)
                self.result['stages'][entry.name] = self._run(entry, min(limit, left - GRACE))
                self.write()
        finally:
            if warming is not None:
                _kill(warming)
        for part in self.parts.glob('*'):
            part.unlink()
        if self.parts.is_dir():
            self.parts.rmdir()
        return all(stage['status'] == 'passed' for stage in self.result['stages'].values())

    def _start_compiling(self) -> subprocess.Popen | None:
        """Fill the compiler's cache beside the stages before ``step``, which are not timed."""
        if self.device == 'cpu':
            return None
        self.parts.mkdir(parents=True, exist_ok=True)
        arguments = ['-m', 'benchmarks.gpu.warm_compiler', '--out', str(self.parts / 'warm.json')]
        with (self.parts / 'warm.log').open('wb') as log:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def write(self) -> None:
        """Write the results of all stages so far."""
        write_json(self.raw, self.result)
        write_text(self.page, report(self.result))

    def _run(self, entry: StageEntry, limit: float) -> dict[str, Any]:
        print(f'=== {entry.name}: at most {limit:.0f} s', flush=True)
        part = self.parts / f'{entry.name}.json'
        part.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        log = part.with_suffix('.log')
        begin = time.monotonic()
        if limit <= 0:
            ended = 'not begun: no time left'
        else:
            ended = self._wait(entry, part, log, limit)
        pieces = json.loads(part.read_text(encoding='utf-8')) if part.is_file() else {}
        failed = [name for name, piece in pieces.items() if piece['passed'] is False]
        stage = {
            'status': ended or ('failed' if failed or not pieces else 'passed'),
            'seconds': round(time.monotonic() - begin, 1),
            'pieces': pieces,
        }
        if stage['status'] != 'passed' and log.is_file():
            text = log.read_text(encoding='utf-8', errors='replace')
            stage['log'] = text[-KEPT_LOG:]
            print(stage['log'], file=sys.stderr)
        print(f'=== {entry.name}: {stage["status"]} [{stage["seconds"]} s]', flush=True)
        return stage

    def _wait(self, entry: StageEntry, part: Path, log: Path, limit: float) -> str | None:
        """Run a stage's process; returns how it ended if that was not of its own accord."""
        arguments = ['--out', str(part), '--device', self.device, '--seconds', f'{limit:.0f}']
        arguments += ['--small'] if self.small else []
        env = {**os.environ, 'PYTHONUNBUFFERED': '1'}
        if self.small:
            env |= {'OMP_NUM_THREADS': '1'}
        with log.open('wb') as output:
            process = subprocess.Popen(
                [sys.executable, *entry.command, *arguments],
                cwd=ROOT,
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(limit + GRACE)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                _kill(process)
        for line in log.read_text(encoding='utf-8', errors='replace').splitlines():
            if any(mark in line for mark in (': ok: ', ': FAILED: ', ': not checked: ')):
                print(line, flush=True)
        if status is None:
            return f'ran over its {limit:.0f} s'
        return None if status == 0 else f'crashed: exit status {status}'


def _kill(process: subprocess.Popen) -> None:
    """End a process that leads a session, with all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments of the command; leaves with a sentence if they cannot be met."""
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.gpu_check',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [stage.name for stage in STAGES]
    parser.add_argument('--stages', nargs='+', choices=names, default=names, help='default: all')
    parser.add_argument(
        '--minutes', type=float, help='for all together (default: 8; 16 for a dry run)'
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='keep the stages that passed at the same commit on the same machine',
    )
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda')
    parser.add_argument('--small', action='store_true', help='tiny sizes, to see that it runs')
    parser.add_argument(
        '--out',
        type=Path,
        help='folder for gpu.md and raw/gpu.json (default: docs/benchmarks, or '
        'work_dirs/gpu_check if it is small or on the CPU)',
    )
    args = parser.parse_args(arguments)
    if args.minutes is None:
        args.minutes = 16.0 if args.small else 8.0
    if args.minutes <= 0:
        parser.error(f'--minutes must be positive, got {args.minutes}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('there is no GPU that torch can use; --device cpu --small runs all stages dry')
    if args.device == 'cpu' and not args.small:
        parser.error('--device cpu is for dry runs; add --small')
    args.out = args.out or (DRY_RUN_FOLDER if args.small else DOCS)
    if args.small and args.out.resolve().is_relative_to(ROOT / 'docs'):
        parser.error(f'a dry run is never written into docs/; choose another --out than {args.out}')
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    given = sys.argv[1:] if arguments is None else list(arguments)
    command = shlex.join(['python', '-m', 'benchmarks.gpu_check', *given])
    check = Check(args.out, args.device, args.small, args.minutes, command)
    kept = check.keep_earlier() if args.resume else []
    if kept:
        print(f'kept: {", ".join(kept)}')
    wanted = [stage for stage in STAGES if stage.name in args.stages and stage.name not in kept]
    passed = check.run(wanted)
    check.write()
    print(f'report: {check.page}')
    return 0 if passed else 1


if __name__ == '__main__':
    sys.exit(main())
