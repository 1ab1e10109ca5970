"""Learn to segment from captions alone, on scenes of emoji made on the spot.

Makes the scenes, evaluates the untrained model, trains it on image-text pairs, evaluates the last
weights on masks that it has never seen, and draws what it does. README.md beside this file
describes options and output.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from demo_benchmark import benchmark_table
from demo_config import DEFAULT_CONFIG, existing_config, seed_of
from demo_data import ATTRIBUTION, Scenes, ensure_scenes
from demo_train import METRIC_WORDS, Run, train

from pgseg_mm.cli.config_files import SettingsAction
from pgseg_mm.cli.processes import data_errors, refusals
from pgseg_mm.serialization.atomic_files import write_text

SIZE_OPTIONS = {
    'num_train': 'training pairs',
    'num_val': 'validation images',
    'num_classes': 'objects and textures together',
    'image_size': 'side of the images in pixels',
}


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n\n')[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add('--out', type=Path, default=Path('work_dirs/demo'), help='folder for all results')
    add('--data', type=Path, default=Path('data/emoji_scenes'), help='folder for the scenes')
    add('--config', type=Path, default=DEFAULT_CONFIG, help='config, from here or the repository')
    add('--max-iters', type=int, metavar='N', help="iterations, if not the config's")
    for field in fields(Scenes):
        if field.name in SIZE_OPTIONS:
            option = f'--{field.name.replace("_", "-")}'
            add(option, type=int, default=field.default, metavar='N', help=SIZE_OPTIONS[field.name])
    add(
        '--cfg-options',
        nargs='+',
        action=SettingsAction,
        metavar='KEY=VALUE',
        help='settings of the config to override, as in tools/train.py',
    )
    add('--shuffle-captions', action='store_true', help='train on wrong captions only')
    several = parser.add_argument_group('several runs and their table')
    add = several.add_argument
    add(
        '--seeds',
        type=int,
        nargs='+',
        metavar='SEED',
        help="train with each seed; the config's or 0 by default",
    )
    add('--control', action='store_true', help='train on wrong captions, too')
    add('--jobs', type=int, default=1, metavar='N', help='runs at a time, which share the cores')
    add('--resume', action='store_true', help='keep the runs that have finished before')
    add('--table', type=Path, help='Markdown table to write; OUT/benchmark.md for several runs')
    return parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.control and args.shuffle_captions:
        parser.error('--control trains on right and wrong captions; leave --shuffle-captions out')
    if args.jobs < 1:
        parser.error(f'--jobs must be at least 1, got {args.jobs}')
    if args.max_iters is not None and args.max_iters < 2:
        parser.error(f'--max-iters must be at least 2, got {args.max_iters}')
    if args.seeds is None:
        try:
            args.seeds = [seed_of(args.config, args.cfg_options)]
        except (FileNotFoundError, ValueError) as error:
            parser.error(str(error))
    if len(set(args.seeds)) < len(args.seeds) or min(args.seeds) < 0:
        parser.error(f'--seeds takes different numbers, not negative, got {args.seeds}')
    if args.num_val < 1:
        parser.error(f'--num-val must be at least 1, got {args.num_val}')
    try:
        existing_config(args.config)
        for run in plan_runs(args):
            run.make_config()
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    return args


def plan_runs(args: argparse.Namespace) -> list[Run]:
    """The runs that the command line asks for; a single one has the output folder for itself."""
    sizes = {name: getattr(args, name) for name in SIZE_OPTIONS}
    shuffles = [False, True] if args.control else [args.shuffle_captions]
    runs = [
        Run(
            config=args.config,
            data=args.data,
            out=args.out,
            scenes=Scenes(**sizes, shuffle_captions=shuffle),
            seed=seed,
            max_iters=args.max_iters,
            options=args.cfg_options,
        )
        for seed in args.seeds
        for shuffle in shuffles
    ]
    if len(runs) == 1:
        return runs
    return [replace(run, out=run.out / run.folder_name) for run in runs]


def run_in_process(run: Run, jobs: int) -> dict[str, Any] | None:
    """Run this program for a single run, and return the run's summary, if it succeeds.

    MMEngine keeps loggers, counters and visualizers for a whole process, so that each run gets one.
    """
    sizes = [f'--{name.replace("_", "-")}={getattr(run.scenes, name)}' for name in SIZE_OPTIONS]
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        f'--out={run.out}',
        f'--data={run.data}',
        f'--config={run.config}',
        f'--seeds={run.seed}',
        *sizes,
        *([f'--max-iters={run.max_iters}'] if run.max_iters is not None else []),
        *(['--shuffle-captions'] if run.scenes.shuffle_captions else []),
        *(['--cfg-options', *map('='.join, _as_words(run.options))] if run.options else []),
    ]
    environment = dict(os.environ)
    if jobs > 1:
        environment['OMP_NUM_THREADS'] = str(max((os.cpu_count() or 1) // jobs, 1))
    failed = subprocess.run(command, env=environment, check=False).returncode
    return None if failed else run.finished()


def _as_words(options: dict[str, Any]) -> list[tuple[str, str]]:
    def word(value: Any) -> str:
        kept = not isinstance(value, str) or SettingsAction._parse_iterable(value) == value
        return str(value) if kept else repr(value)

    return [(key, word(value)) for key, value in options.items()]


def run_all(runs: list[Run], jobs: int, resume: bool) -> list[dict[str, Any]]:
    """Run all that have not finished yet.

    Raises:
        SystemExit: If one of them fails, after all the others have ended.
    """

    def run_one(run: Run) -> dict[str, Any] | None:
        summary = run.finished() if resume else None
        return run_in_process(run, jobs) if summary is None else summary

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        summaries = list(pool.map(run_one, runs))
    failed = [run.name for run, summary in zip(runs, summaries, strict=True) if summary is None]
    if failed:
        raise SystemExit(f'failed: {"; ".join(failed)}. --resume keeps the runs that did not.')
    return [summary for summary in summaries if summary is not None]


def closing_words(summary: dict[str, Any], out: Path) -> str:
    """What a run has come to, as a table, and where its files are."""
    untrained, trained = summary['metrics']['untrained'], summary['metrics']['trained']
    lines = [f'{"mIoU in %":<14}{"untrained":>10}{"trained":>10}{"ratio":>8}']
    for name, word in METRIC_WORDS.items():
        ratio = summary['ratios'][name]
        times = '–' if ratio is None else f'{ratio:.2f}'
        lines.append(f'{word:<14}{untrained[name]:>10.2f}{trained[name]:>10.2f}{times:>8}')
    if summary['settings']['scenes']['shuffle_captions']:
        lines.append('This is the control: the captions belonged to other images.')
    lines.append(f'\ntime          {summary["seconds"]["total"]:.0f} s')
    lines += [f'{name:<14}{out / path}' for name, path in summary['files'].items()]
    lines += [f'{"numbers":<14}{out / "summary.json"}', '', ATTRIBUTION]
    return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    start = time.perf_counter()
    args = parse_args(argv)
    command = shlex.join(['python', 'demo/run_demo.py', *(sys.argv[1:] if argv is None else argv)])
    runs = plan_runs(args)
    for scenes in dict.fromkeys(run.scenes for run in runs):
        ensure_scenes(scenes, args.data)
    table = args.table
    if len(runs) == 1:
        summary = runs[0].finished() if args.resume else None
        with refusals(build_parser()), data_errors():
            summaries = [summary or train(runs[0], command)]
        print('\n' + closing_words(summaries[0], args.out))
    else:
        summaries = run_all(runs, args.jobs, args.resume)
        table = table or args.out / 'benchmark.md'
    if table is not None:
        text = benchmark_table(summaries, command, time.perf_counter() - start)
        write_text(table, text)
        print(f'\n{text}\n{table} has this table.')


if __name__ == '__main__':
    main()
