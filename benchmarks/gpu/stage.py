"""What a stage of the GPU check is made of: pieces, each checked or measured by itself.

A stage is a module of this folder that is run as ``python -m benchmarks.gpu.NAME --out FILE``. It
writes FILE after every piece, so that what was found stays when a later piece crashes or hangs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.utils import mkdir_or_exist

ROOT = Path(__file__).resolve().parents[2]
PGSEG = ROOT / 'configs/pgseg/pgseg_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py'
GROUPVIT = ROOT / 'configs/groupvit/groupvit_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py'
TINY = ROOT / 'configs/pgseg/pgseg_tiny-p8_emoji-scenes-64x64.py'
SHOWN_OUTPUT = 600
"""Characters of a failed command's output that a result keeps."""


@dataclass
class Piece:
    """What was found: a sentence, a table, and figures for the list of aims."""

    summary: str
    passed: bool | None = True
    """None where nothing could be checked, which the summary explains."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """A table, one dict by column a row."""
    figures: dict[str, float] = field(default_factory=dict)
    """Figures that aims refer to, by name."""


class OutOfTime(Exception):
    """The stage has no time left for a piece."""


class Stage:
    """Runs the pieces of a stage and writes down what each has found.

    Args:
        out: File for the results, JSON.
        device: ``'cuda'`` or ``'cpu'``.
        small: Whether sizes are those of a dry run.
        seconds: How long the stage may take.
    """

    def __init__(self, out: Path, device: str, small: bool, seconds: float) -> None:
        self.out = out
        self.device = device
        self.small = small
        self.deadline = time.monotonic() + seconds
        self.pieces: dict[str, dict[str, Any]] = {}
        if small:
            torch.set_num_threads(1)

    @classmethod
    def from_command_line(cls, arguments: Sequence[str] | None = None) -> Stage:
        """A stage as ``benchmarks/gpu_check.py`` starts it."""
        parser = argparse.ArgumentParser()
        parser.add_argument('--out', type=Path, required=True)
        parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda')
        parser.add_argument('--small', action='store_true')
        parser.add_argument('--seconds', type=float, default=600.0)
        args = parser.parse_args(arguments)
        if args.device == 'cuda' and not torch.cuda.is_available():
            parser.error('--device cuda needs a GPU that torch can use, and there is none')
        return cls(args.out, args.device, args.small, args.seconds)

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def size(self, full: int, small: int) -> int:
        """A size of the check, or that of the dry run."""
        return small if self.small else full

    def run(self, name: str, piece: Callable[[], Piece], needs: float = 0.0) -> None:
        """Run a piece and write down what it has found; an error in it is its result.

        Args:
            name: What the report calls it.
            piece: Called without arguments.
            needs: Seconds without which it is not begun.
        """
        self._add(name, *self._attempt(piece, needs))

    def run_beside(
        self, pieces: dict[str, Callable[[], Piece]], meanwhile: Callable[[], None]
    ) -> None:
        """Run pieces that wait for other processes, all at once if there is a GPU.

        Args:
            pieces: By name.
            meanwhile: What runs the pieces of this process.
        """
        threads = len(pieces) if self.device == 'cuda' else (os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) as pool:
            running = {name: pool.submit(self._attempt, piece) for name, piece in pieces.items()}
            meanwhile()
            for name, future in running.items():
                self._add(name, *future.result())

    def _attempt(self, piece: Callable[[], Piece], needs: float = 0.0) -> tuple[Piece, float]:
        begin = time.monotonic()
        try:
            if self.seconds_left < needs:
                raise OutOfTime
            found = piece()
        except OutOfTime:
            found = Piece('not begun: the stage has no time left', passed=None)
        except subprocess.TimeoutExpired:
            found = Piece('not ended: the stage has no time left', passed=None)
        except Exception as error:
            traceback.print_exc()
            found = Piece(f'{type(error).__name__}: {error}'[:SHOWN_OUTPUT], passed=False)
        return found, time.monotonic() - begin

    def _add(self, name: str, found: Piece, seconds: float) -> None:
        self.pieces[name] = {**asdict(found), 'seconds': round(seconds, 1)}
        mark = {True: 'ok', False: 'FAILED', None: 'not checked'}[found.passed]
        print(f'{name}: {mark}: {found.summary} [{seconds:.1f} s]', flush=True)
        mkdir_or_exist(self.out.parent)
        partial = self.out.with_suffix('.part')
        partial.write_text(json.dumps(self.pieces, indent=1), encoding='utf-8')
        partial.replace(self.out)

    def figure(self, piece: str, name: str) -> float | None:
        """A figure of a piece that was run before, if it has found one."""
        return self.pieces.get(piece, {}).get('figures', {}).get(name)

    def command(
        self, *arguments: object, env: dict[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess:
        """Run a Python command from the checkout on this stage's device.

        Args:
            arguments: Of the interpreter.
            env: Variables of the environment to set.
            check: Whether another exit status than 0 is an error.

        Raises:
            RuntimeError: If the command fails; with the end of its output.
            subprocess.TimeoutExpired: If the stage has no time left for it.
        """
        return self.script([sys.executable, *map(str, arguments)], env, check)

    def script(
        self, command: list[str], env: dict[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess:
        """:meth:`command` for any program."""
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **self.environment, **(env or {})},
            capture_output=True,
            text=True,
            errors='replace',
            timeout=max(self.seconds_left, 1),
            check=False,
        )
        if check and done.returncode:
            output = (done.stdout + done.stderr).strip()
            raise RuntimeError(f'exit status {done.returncode}: …{output[-SHOWN_OUTPUT:]}')
        return done

    @property
    def environment(self) -> dict[str, str]:
        """Variables for child processes: the checkout, and no GPU on the CPU."""
        paths = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
        env = {'PYTHONPATH': os.pathsep.join(paths)}
        return env if self.device == 'cuda' else {**env, 'CUDA_VISIBLE_DEVICES': ''}

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device == 'cuda':
            torch.cuda.synchronize()
