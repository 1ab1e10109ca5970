"""Evaluate a checkpoint zero-shot on all benchmarks, and write the table that papers print.

    python tools/analysis_tools/zero_shot_table.py CONFIG CHECKPOINT [--benchmarks voc21 ade20k ...]

The model is that of CONFIG, which may be a training config; data and metrics are those of
configs/pgseg/zero_shot. Benchmarks whose data are not there are named, with what to do. Each
result is kept as soon as it is there, so that a run that was stopped goes on where it was: what was
evaluated with the same weights and settings is not evaluated again, unless --again says so. Files
in the work directory: zero_shot.md, zero_shot.csv, zero_shot.json, and the log of each benchmark.
"""

import argparse
import csv
import hashlib
import io
import json
import math
import shlex
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.dist import is_main_process

from pgseg_mm.apis.model_choice import add_naming
from pgseg_mm.cli.arguments import add_launch_arguments
from pgseg_mm.cli.benchmark_data import missing_data
from pgseg_mm.cli.checkpoint_sources import SOURCES, require_checkpoint
from pgseg_mm.cli.config_files import override, read_config_file
from pgseg_mm.cli.processes import end_job, prepare_distributed
from pgseg_mm.cli.provenance import describe, describe_machine, versions
from pgseg_mm.cli.run_configs import add_checks, check_loading_of, find_config
from pgseg_mm.engine.preflight import build_runner, check_writable
from pgseg_mm.errors import PreflightError, RunError
from pgseg_mm.evaluation import LabelMapError, ZeroShotIoUMetric
from pgseg_mm.files.reading import DamagedFileError, FileAccessError
from pgseg_mm.serialization.atomic_files import read_state, write_json, write_text
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.locating import locate
from pgseg_mm.serialization.runner_checkpoints import load_checkpoints_safely

CONFIGS = Path(__file__).parents[2] / 'configs' / 'pgseg' / 'zero_shot'
CONFIG_PREFIX = {
    'published': 'pgseg_vit-small-p16_zero-shot_',
    'tcl': 'pgseg_vit-small-p16_zero-shot-tcl_',
}
TRAINING_KEYS = (
    'train_dataloader',
    'train_cfg',
    'optim_wrapper',
    'param_scheduler',
    'auto_scale_lr',
)
EVALUATION_KEYS = ('benchmark', 'test_dataloader', 'test_evaluator', 'test_cfg', 'custom_hooks')
VALIDATION_KEYS = ('val_dataloader', 'val_evaluator', 'val_cfg')
READ_BYTES = 2**20
REPORTED_METRICS = ('mIoU', 'aAcc', 'mAcc')


class Measured(NamedTuple):
    """A benchmark that was evaluated; metrics in percent."""

    name: str
    classes: int
    threshold: float | None
    images: int
    seconds: float
    metrics: dict[str, float]
    class_iou: dict[str, float | None]
    """IoU of each class, ``None`` for those that neither occur nor are predicted."""


class Missing(NamedTuple):
    """A benchmark whose data are not there."""

    name: str
    missing: list[str]
    prepare: str


class Failed(NamedTuple):
    """A benchmark that ended with an error."""

    name: str
    error: str


TableRow = Measured | Missing | Failed


def list_benchmarks(protocol: str) -> dict[str, Path]:
    """Names and configs of the segmentation benchmarks that a protocol has."""
    prefix = CONFIG_PREFIX[protocol]
    files = {path.stem.removeprefix(prefix): path for path in sorted(CONFIGS.glob(f'{prefix}*.py'))}
    files.pop('imagenet1k', None)  # classification
    return files


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of the model')
    parser.add_argument('checkpoint', help=SOURCES)
    parser.add_argument(
        '--benchmarks',
        nargs='+',
        metavar='NAME',
        help=f'of {", ".join(list_benchmarks("published"))} (default: all)',
    )
    parser.add_argument('--protocol', choices=CONFIG_PREFIX, default='published')
    parser.add_argument(
        '--thresholds',
        nargs='+',
        default=[],
        metavar='NAME=VALUE',
        help="background thresholds to take in place of the config's background_thresholds",
    )
    add_naming(parser)
    parser.add_argument('--again', action='store_true', help='evaluate what has been evaluated')
    add_launch_arguments(parser)
    return parser


def parse_thresholds(given: list[str]) -> dict[str, float]:
    """Thresholds by benchmark.

    Raises:
        ValueError: One is not written NAME=VALUE, with a positive number.
    """
    thresholds = {}
    for item in given:
        name, _, value = item.partition('=')
        try:
            thresholds[name] = float(value)
        except ValueError:
            raise ValueError(f'--thresholds takes NAME=VALUE, got {item!r}') from None
        if thresholds[name] <= 0:
            raise ValueError(f'a background threshold must be positive, got {item!r}')
    return thresholds


def benchmark_config(
    config: Config, benchmark: Config, name: str, thresholds: dict[str, float]
) -> Config:
    """The model of a config under a benchmark.

    Args:
        config: Config with a model, and ``background_thresholds`` if it has any.
        benchmark: Config of ``configs/pgseg/zero_shot``, whose data, metric and words are taken.
        name: Name of the benchmark.
        thresholds: Background thresholds by benchmark that go before those of the config.

    Raises:
        ValueError: The benchmark has a background class and nobody says its threshold.
    """
    cfg = Config(config.to_dict())
    for key in (*TRAINING_KEYS, *VALIDATION_KEYS):
        cfg.pop(key, None)
    for key in EVALUATION_KEYS:
        cfg[key] = benchmark[key]
    if 'class_embed_cache' in benchmark.model:
        cfg.model.class_embed_cache = benchmark.model.class_embed_cache
    threshold = None
    if benchmark.model.decode_head.get('background_threshold') is not None:
        known = {**(config.get('background_thresholds') or {}), **thresholds}
        if name not in known:
            raise ValueError(
                f'{name} has a background class, and neither background_thresholds of the config '
                f'nor --thresholds says its threshold; add --thresholds {name}=VALUE '
                '(tools/analysis_tools/sweep_threshold.py finds one on a split)'
            )
        threshold = known[name]
    cfg.model.decode_head.background_threshold = threshold
    return cfg


def fingerprint(cfg: Config, checkpoint: Path) -> str:
    """Tells whether a result belongs to these weights and settings."""
    digest = hashlib.sha256()
    for key in ('model', 'test_dataloader', 'test_evaluator', 'custom_hooks'):
        digest.update(json.dumps(cfg.get(key), sort_keys=True, default=str).encode())
    with checkpoint.open('rb') as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def evaluate(cfg: Config, name: str) -> Measured:
    """Run a benchmark, as tools/test.py does."""
    # visualisers, loggers and message hubs are global by this name
    cfg.experiment_name = f'{name}_{time.time_ns()}'
    cfg.visualizer.name = cfg.experiment_name
    started = time.perf_counter()
    check_loading_of(cfg)
    runner = build_runner(cfg)
    metrics = runner.test()
    seconds = time.perf_counter() - started
    dataset = runner.test_dataloader.dataset
    scores: dict[str, float | None] = {}
    for metric in runner.test_evaluator.metrics:
        if isinstance(metric, ZeroShotIoUMetric) and metric.areas is not None:
            ious = (metric.areas.intersect / metric.areas.union * 100).tolist()
            for label, iou in zip(dataset.metainfo['classes'], ious, strict=True):
                scores[label] = None if math.isnan(iou) else iou  # JSON has no NaN
    return Measured(
        name=name,
        classes=len(dataset.metainfo['classes']),
        threshold=cfg.model.decode_head.background_threshold,
        images=len(dataset),
        seconds=seconds,
        metrics={key: float(value) for key, value in metrics.items()},
        class_iou=scores,
    )


def run_one(
    name: str, file: Path, args: argparse.Namespace, thresholds: dict[str, float]
) -> TableRow:
    """Evaluate a benchmark, or find out why not."""
    folder = Path(args.work_dir) / name
    kept = folder / 'result.json'
    benchmark = read_config_file(file)
    cfg = benchmark_config(read_config_file(args.config), benchmark, name, thresholds)
    if args.naming is not None:
        cfg.model.decode_head.naming = args.naming
    override(cfg, args.cfg_options)
    if missing := missing_data(cfg):
        return Missing(name, missing, cfg.benchmark.prepare)
    mark = fingerprint(cfg, locate(args.checkpoint))
    if kept.is_file() and not args.again:
        result = read_state(kept, f'{name} is evaluated again') or {}
        if result.pop('fingerprint', None) == mark and set(result) == set(Measured._fields):
            print(f'{name}: evaluated before, with the same weights and settings')
            return Measured(**result)
    cfg.update(load_from=args.checkpoint, resume=False, work_dir=str(folder))
    if args.launcher is not None:
        cfg.launcher = args.launcher
    cfg.setdefault('launcher', 'none')
    add_checks(cfg, args.allow_partial)
    prepare_distributed(cfg)
    try:
        row = evaluate(cfg, name)
    except CheckpointError:
        raise  # it is the same for the other benchmarks
    except Exception as error:
        if cfg.launcher != 'none':
            raise  # the other ranks wait for this one
        if not isinstance(
            error, (PreflightError, RunError, DamagedFileError, FileAccessError, LabelMapError)
        ):
            traceback.print_exc()
        return Failed(name, f'{type(error).__name__}: {error}')
    if is_main_process():
        write_json(kept, {**row._asdict(), 'fingerprint': mark})
    return row


def as_csv(rows: list[TableRow]) -> str:
    """A line a benchmark, those without a result with empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    columns = ['benchmark', 'state', 'classes', 'threshold', 'images', 'seconds']
    writer.writerow([*columns, *REPORTED_METRICS])
    for row in rows:
        cells: list[Any] = [row.name, type(row).__name__.lower()]
        if isinstance(row, Measured):
            cells += [row.classes, row.threshold, row.images, f'{row.seconds:.1f}']
            cells += [row.metrics.get(metric) for metric in REPORTED_METRICS]
        else:
            cells += [None] * (4 + len(REPORTED_METRICS))
        writer.writerow(cells)
    return text.getvalue()


def as_markdown(rows: list[TableRow], result: dict[str, Any] | None = None) -> str:
    """The table, what is missing, and with a result how it was made."""
    lines = [
        '| Benchmark | Classes | Background threshold | Images | mIoU | aAcc | mAcc |',
        '| --- | --: | --: | --: | --: | --: | --: |',
    ]
    for row in rows:
        if isinstance(row, Measured):
            threshold = 'no background' if row.threshold is None else f'{row.threshold:g}'
            scores = ' | '.join(f'{row.metrics[metric]:.2f}' for metric in REPORTED_METRICS)
            lines.append(f'| {row.name} | {row.classes} | {threshold} | {row.images} | {scores} |')
    notes = [
        f'- {row.name} was not evaluated: {", ".join(row.missing)} cannot be found. '
        f'To prepare the data, {row.prepare}.'
        for row in rows
        if isinstance(row, Missing)
    ]
    notes += [f'- {row.name} FAILED: {row.error}' for row in rows if isinstance(row, Failed)]
    if result is None:
        return '\n'.join([*lines, '', *notes])
    naming = f', naming by {result["naming"]}' if result['naming'] else ''
    head = [
        '# Zero-shot segmentation',
        '',
        f'`{result["checkpoint"]}` by `{result["config"]}`, {result["protocol"]} protocol'
        f'{naming}. Metrics in percent.',
        '',
    ]
    return '\n'.join([*head, *lines, '', *notes, *([''] if notes else []), *describe(result), ''])


def write_table(rows: list[TableRow], args: argparse.Namespace) -> None:
    """Write the table in its three forms, of what there is so far."""
    folder = Path(args.work_dir)
    result = {
        'command': shlex.join(['python', 'tools/analysis_tools/zero_shot_table.py', *sys.argv[1:]]),
        'config': args.config,
        'checkpoint': args.checkpoint,
        'protocol': args.protocol,
        'naming': args.naming,
        'machine': describe_machine(),
        'versions': versions(),
        'benchmarks': [{'state': type(row).__name__.lower(), **row._asdict()} for row in rows],
    }
    write_json(folder / 'zero_shot.json', result)
    write_text(folder / 'zero_shot.csv', as_csv(rows))
    write_text(folder / 'zero_shot.md', as_markdown(rows, result))


def main() -> int:
    parser = build_parser()
    args = parser.parse_args()
    args.config = find_config(parser, args.config)
    require_checkpoint(parser, args.checkpoint)
    known = list_benchmarks(args.protocol)
    names = list(known) if args.benchmarks is None else args.benchmarks
    if unknown := [name for name in names if name not in known]:
        parser.error(
            f'unknown benchmarks {", ".join(unknown)}; the {args.protocol} protocol has '
            f'{", ".join(known)}'
        )
    if args.work_dir is None:
        stem = f'{Path(args.config).stem}_{Path(args.checkpoint).stem}_{args.protocol}'
        stem += f'_{args.naming}' if args.naming else ''
        args.work_dir = str(Path('work_dirs') / 'zero_shot' / stem)
    load_checkpoints_safely(trust=args.trust)
    rows: list[TableRow] = []
    try:
        check_writable(args.work_dir, 'work_dir')
        thresholds = parse_thresholds(args.thresholds)
        for name in names:
            rows.append(run_one(name, known[name], args, thresholds))
            if is_main_process():
                write_table(rows, args)
    except ValueError as error:
        parser.error(str(error))
    if is_main_process():
        print(f'\n{as_markdown(rows)}\nWritten to {args.work_dir}/zero_shot.md, .csv and .json')
    failed = any(isinstance(row, Failed) for row in rows)
    measured = any(isinstance(row, Measured) for row in rows)
    return 0 if measured and not failed else 1


if __name__ == '__main__':
    status = main()
    if status == 0:
        end_job()
    sys.exit(status)
