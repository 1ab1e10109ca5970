"""What each part of the method is worth, on emoji scenes: many small runs, in one table.

    python -m benchmarks.ablation [--rows pgseg pastes] [--world 20 100] [--stages 1 2] [--jobs 2]

Every main row of benchmarks/ablation_rows.py is trained with every seed on the demo's scenes, and
judged on scenes that no choice of the config's settings was made on; variants of NPR are trained
where --rows names them. What is done is not done again: a run is known by its config, its seed and
its data. A command that was killed, or has come to its --minutes, goes on when it is given again; a
run that was broken off goes on from its last checkpoint. The page has what was asked for, and all
rows at all scales that have results; --report writes it and trains nothing.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from demo.demo_data import ensure_scenes
from pgseg_mm.cli.arguments import check_output
from pgseg_mm.cli.config_files import ConfigError, SettingsAction
from pgseg_mm.serialization.atomic_files import read_state, write_json, write_text

from . import ablation_run
from .ablation_cells import DECISIVE, Cell, World
from .ablation_report import draw_curves, report
from .ablation_rows import MAIN, ROWS
from .gpu_check import commit

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs/benchmarks'
WORLDS, SEEDS = (20, 100), (0, 1, 2, 3, 4)


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.ablation',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('--rows', nargs='+', default=[*MAIN], metavar='ROW', help='default: all main rows')
    add('--world', type=int, nargs='+', default=[*WORLDS], metavar='CLASSES', help='20 and 100')
    add('--stages', type=int, nargs='+', choices=[1, 2], default=[1, 2], help='grouping stages')
    add('--seeds', type=int, nargs='+', default=[*SEEDS], metavar='SEED', help='default: 0 to 4')
    add('--iterations', type=int, default=500, metavar='N', help='default: %(default)s')
    add('--jobs', type=int, default=1, metavar='N', help='runs side by side, one thread each')
    add('--minutes', type=float, help='begin no run that would not end by then')
    add('--report', action='store_true', help='train nothing: write the page from what is there')
    add('--add', type=Path, nargs='+', default=[], metavar='JSON', help='results made elsewhere')
    add('--data', type=Path, default=Path('data/ablation'), help='folder for the scenes')
    add('--work-dir', type=Path, default=Path('work_dirs/ablation'), help='folder for the runs')
    add('--json', type=Path, default=DOCS / 'raw/ablation.json', help='all results')
    add('--markdown', type=Path, default=DOCS / 'ablation.md', help='page; its picture is beside')
    add('--keep', action='store_true', help='keep the last checkpoint of each run')
    add('--num-train', type=int, default=16000, metavar='N', help='training pairs')
    add('--num-new', type=int, metavar='N', help='scenes to judge by (500; 1000 for 100 classes)')
    add(
        '--cfg-options',
        nargs='+',
        action=SettingsAction,
        default={},
        metavar='KEY=VALUE',
        help='settings of the config to override in all rows; iterations count as in the config, '
        'and are shrunk to --iterations',
    )
    return parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f'--jobs must be at least 1, got {args.jobs}')
    if args.iterations < 2:
        parser.error(f'--iterations must be at least 2, got {args.iterations}')
    if unknown := [row for row in args.rows if row not in ROWS]:
        parser.error(f'--rows: there is no row {", ".join(unknown)}; there are {", ".join(ROWS)}')
    for name in ('rows', 'world', 'stages', 'seeds'):
        given = getattr(args, name)
        if len(set(given)) < len(given):
            parser.error(f'--{name} takes each value once, got {" ".join(map(str, given))}')
    for file in args.add:
        if not file.is_file():
            parser.error(f'--add: there is no file {file}')
    for name in ('json', 'markdown'):
        check_output(parser, getattr(args, name), f'--{name}')
    _check_options(parser, args)
    return args


def _check_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse options that no key would have in it, and those that a row cannot take."""
    for option in args.cfg_options:
        if option.partition('.')[0] not in DECISIVE:
            parser.error(f'--cfg-options takes settings of {", ".join(DECISIVE)}, got {option}')
    for row in args.rows if args.cfg_options else ():
        try:
            _ = Cell(row, World.of(args.world[0]), options=args.cfg_options).key
        except ConfigError as error:
            parser.error(f'--cfg-options does not fit the row {row}: {error}')


def run_context() -> Any:
    """Where the processes of the runs come from.

    A fork each, so that torch is imported once; but a fork of a process that has looked for a GPU,
    as mmengine does when it is imported, cannot use it.
    """
    if torch.cuda.is_available():
        return get_context('spawn')
    context = get_context('forkserver')
    context.set_forkserver_preload(['benchmarks.ablation_run'])
    return context


class Results:
    """Results by the keys of their runs: a file each, and all of them in one.

    Args:
        folder: Work folder of the ablation.
        merged: File with all results.
    """

    def __init__(self, folder: Path, merged: Path) -> None:
        self.folder = folder / 'results'
        self.merged = merged
        self._lock = threading.Lock()

    def file(self, cell: Cell) -> Path:
        return self.folder / f'{cell.key}.json'

    def read(self) -> dict[str, dict[str, Any]]:
        """All that is known, that of the merged file, too, by key."""
        found = {result['key']: result for result in self._read_merged(self.merged)}
        for file in sorted(self.folder.glob('[!.]*.json')):  # a dot begins what is being written
            result = read_state(file, 'its run is done again')
            if result is None:
                file.unlink()
            else:
                found[result['key']] = result
        return found

    def add(self, files: Iterable[Path]) -> None:
        """Take over results that were made elsewhere, as merged files hold them."""
        for file in files:
            for result in self._read_merged(file, needed=True):
                write_json(self.folder / f'{result["key"]}.json', result)

    def merge(self) -> dict[str, dict[str, Any]]:
        """Write all results into one file and return them."""
        with self._lock:
            found = self.read()
            write_json(self.merged, {'runs': [found[key] for key in sorted(found)]})
            return found

    @staticmethod
    def _read_merged(file: Path, needed: bool = False) -> list[dict[str, Any]]:
        if not file.is_file():
            return []
        content = read_state(file, 'what only it holds is done again') or {}
        runs = content.get('runs', [] if not needed else None)
        known = isinstance(runs, list) and all('key' in run for run in runs)
        if not known or content and 'runs' not in content:
            raise SystemExit(f'{file} holds no results of this command; give another file')
        return runs


class Schedule:
    """Runs what is not done yet, several at a time.

    Args:
        args: Arguments of the command.
        results: Where results are and go.
        command: The command, for the results.
    """

    def __init__(self, args: argparse.Namespace, results: Results, command: str) -> None:
        self.args = args
        self.results = results
        self.command = command
        self.commit = commit()
        self.start = time.monotonic()
        self.longest = 0.0
        self.failed: list[str] = []
        self.left_out = 0
        self.ended = 0
        self.processes: set[Any] = set()
        self.context = run_context()
        self.stopped = False

    def run(self, cells: Sequence[Cell]) -> None:
        """Run them, and end what runs if this process is told to end."""
        earlier = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        pool = ThreadPoolExecutor(self.args.jobs)
        try:
            for future in [pool.submit(self._run, cell, len(cells)) for cell in cells]:
                future.result()
        finally:
            self.stopped = True
            for process in list(self.processes):
                process.terminate()
            pool.shutdown(cancel_futures=True)
            signal.signal(signal.SIGTERM, earlier)

    def _run(self, cell: Cell, total: int) -> None:
        elapsed = time.monotonic() - self.start
        limit = self.args.minutes
        if self.stopped or (limit is not None and elapsed + self.longest > 60 * limit):
            self.left_out += 1
            return
        begin = time.monotonic()
        status = self.wait(self.job(cell))
        seconds = time.monotonic() - begin
        if self.stopped:
            return
        self.ended += 1
        result = self.results.merge().get(cell.key) if status == 0 else None
        if result is None:
            self.failed.append(cell.name)
            said = f'FAILED (status {status}); {self.job(cell).log} says why'
        else:
            self.longest = max(self.longest, seconds)
            figures = result['curve'][-1]['mIoU']
            said = ', '.join(f'{way} {figures[way]["all"]}' for way in figures)
        rate = (time.monotonic() - self.start) / self.ended
        left = rate * (total - self.ended) / 60
        print(
            f'[{self.ended}/{total}] {cell.name}: {said}; {seconds:.0f} s, about {left:.0f} '
            'minutes to go',
            flush=True,
        )

    def job(self, cell: Cell) -> ablation_run.Job:
        folder = self.args.work_dir.resolve()
        key = cell.key
        return ablation_run.Job(
            cell=cell,
            data=self.args.data.resolve(),
            folder=folder / 'runs' / key,
            result=self.results.file(cell).resolve(),
            log=folder / 'logs' / f'{key}.log',
            command=self.command,
            commit=self.commit,
            keep=self.args.keep,
        )

    def wait(self, job: ablation_run.Job) -> int | None:
        process = self.context.Process(target=ablation_run.run, args=(job,))
        process.start()
        self.processes.add(process)
        try:
            process.join()
        finally:
            self.processes.discard(process)
        return process.exitcode


def cells_of(
    args: argparse.Namespace, scales: Iterable[tuple[str, int, int]], seeds: Sequence[int]
) -> list[Cell]:
    """Runs of rows at scales, each with the seeds.

    Args:
        args: Arguments of the command.
        scales: Row, classes and stages.
        seeds: Seeds.
    """
    return [
        Cell(
            row=row,
            world=World.of(classes, args.num_train, args.num_new),
            stages=stages,
            seed=seed,
            iterations=args.iterations,
            options=args.cfg_options,
        )
        for row, classes, stages in scales
        for seed in seeds
    ]


def asked_for(args: argparse.Namespace) -> list[Cell]:
    """All runs of the command: at each scale first one seed for all rows."""
    return [
        cell
        for classes, stages, seed in product(args.world, args.stages, args.seeds)
        for cell in cells_of(args, [(row, classes, stages) for row in args.rows], [seed])
    ]


def on_the_page(
    args: argparse.Namespace, asked: Sequence[Cell], known: dict[str, dict[str, Any]]
) -> list[Cell]:
    """The runs that were asked for, and those beside a run that has a result; none is missing of
    a row that is trained by name alone and was not asked for."""
    scales = {(cell.row, cell.classes, cell.stages) for cell in asked}
    others = {
        (result['row'], result['classes'], result['stages'])
        for result in known.values()
        if result['row'] in ROWS
    }
    found = cells_of(args, others - scales, args.seeds)
    scales |= {(cell.row, cell.classes, cell.stages) for cell in found if cell.key in known}
    order = [*ROWS]
    ordered = sorted(scales, key=lambda scale: (scale[1], scale[2], order.index(scale[0])))
    wanted = {cell.row for cell in asked} | {*MAIN}
    cells = cells_of(args, ordered, args.seeds)
    return [cell for cell in cells if cell.row in wanted or cell.key in known]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 if a run failed."""
    args = parse_args(argv)
    given = sys.argv[1:] if argv is None else list(argv)
    command = shlex.join(['python', '-m', 'benchmarks.ablation', *given])
    asked = asked_for(args)
    results = Results(args.work_dir, args.json)
    results.add(args.add)
    schedule = Schedule(args, results, command)
    if not args.report:
        known = results.read()
        runs = {cell.key: cell for cell in asked}  # options may make rows the same
        waiting = [cell for key, cell in runs.items() if key not in known]
        print(f'{len(runs)} runs, {len(runs) - len(waiting)} of them done before', flush=True)
        for world in dict.fromkeys(cell.world for cell in waiting):
            for name, folder in world.folders(args.data).items():
                ensure_scenes(getattr(world, name), folder)
        # the processes of the runs get it; this one has read it already
        os.environ['OMP_NUM_THREADS'] = '1'
        schedule.run(waiting)
        if schedule.left_out:
            print(f'not begun, since the time is up: {schedule.left_out} runs', flush=True)
    known = results.merge()
    cells = on_the_page(args, asked, known)
    picture = args.markdown.with_suffix('.png')
    drawn = picture if draw_curves(cells, known, picture) else None
    write_text(args.markdown, report(cells, known, args.json, drawn, args.markdown))
    missing = sum(cell.key not in known for cell in cells)
    print(f'{args.markdown}: {len(cells) - missing} of {len(cells)} runs are in the table')
    for name in schedule.failed:
        print(f'failed: {name}', file=sys.stderr)
    return 1 if schedule.failed else 0


if __name__ == '__main__':
    sys.exit(main())
