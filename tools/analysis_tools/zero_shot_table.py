"""Evaluate a checkpoint zero-shot on all benchmarks, and write the table that papers print.

    python tools/analysis_tools/zero_shot_table.py CONFIG CHECKPOINT [--benchmarks voc21 ade20k ...]
        [--protocol sclip naclip ...]

The model is that of CONFIG, which may be a training config; CHECKPOINT is none for the weights that
the model starts with. Data and metrics are those of configs/pgseg/zero_shot; images, windows, words
and thresholds are as the protocol has them (as published, windows are those of CONFIG), and the
table says of what that consists. Benchmarks
whose data are not there are named, with what to do. Each result is kept as soon as it is there, so
that a run that was stopped goes on where it was: what was evaluated with the same weights and
settings is not evaluated again, unless --again says so. Files in the work directory: zero_shot.md,
zero_shot.csv, zero_shot.json, and the log of each benchmark.
"""

import argparse
import hashlib
import math
import os
import shlex
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS

from pgseg_mm.apis.naming_choice import add_naming, naming_of
from pgseg_mm.apis.table_configs import (
    PUBLISHED_PROTOCOL,
    check_all,
    configure,
    parse_thresholds,
    with_options,
)
from pgseg_mm.cli.arguments import add_launch_arguments
from pgseg_mm.cli.benchmark_data import missing_data
from pgseg_mm.cli.checkpoint_sources import NO_CHECKPOINT, SOURCES_OR_NONE, require_checkpoint
from pgseg_mm.cli.config_files import ConfigError
from pgseg_mm.cli.processes import end_job, prepare_distributed
from pgseg_mm.cli.protocols import (
    Protocol,
    deciding_threshold,
    protocol_names,
    read_protocol,
)
from pgseg_mm.cli.provenance import describe_machine, versions
from pgseg_mm.cli.run_configs import add_checks, check_loading_of, find_config
from pgseg_mm.cli.zero_shot_results import (
    Failed,
    Measured,
    Missing,
    TableRow,
    Unknown,
    as_csv,
    as_markdown,
    fingerprint,
    protocols_of,
)
from pgseg_mm.engine.preflight import build_runner, check_writable
from pgseg_mm.errors import PreflightError, RunError
from pgseg_mm.evaluation import LabelMapError, ZeroShotIoUMetric
from pgseg_mm.files.reading import DamagedFileError, FileAccessError
from pgseg_mm.integration import announce_local_rank
from pgseg_mm.serialization.atomic_files import read_state, write_json, write_text
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.runner_checkpoints import load_checkpoints_safely

CONFIGS = Path(__file__).parents[2] / 'configs' / 'pgseg' / 'zero_shot'
CONFIG_PREFIX = 'pgseg_vit-small-p16_zero-shot_'


def list_benchmarks() -> dict[str, Path]:
    """Names and configs of the segmentation benchmarks."""
    paths = sorted(CONFIGS.glob(f'{CONFIG_PREFIX}*.py'))
    files = {path.stem.removeprefix(CONFIG_PREFIX): path for path in paths}
    files.pop('imagenet1k', None)  # classification
    return files


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of the model')
    parser.add_argument(
        'checkpoint',
        help=SOURCES_OR_NONE,
    )
    parser.add_argument(
        '--benchmarks',
        nargs='+',
        metavar='NAME',
        help=f'of {", ".join(list_benchmarks())} (default: all that a protocol is known for)',
    )
    parser.add_argument(
        '--protocol',
        nargs='+',
        metavar='NAME',
        default=[PUBLISHED_PROTOCOL],
        help=f'one or several of {", ".join([PUBLISHED_PROTOCOL, *protocol_names()])}, or config '
        f'files with protocol=dict(...) (default: {PUBLISHED_PROTOCOL})',
    )
    parser.add_argument(
        '--thresholds',
        nargs='+',
        default=[],
        metavar='NAME=VALUE',
        help="background thresholds to take in place of the config's background_thresholds, or of "
        "the protocol's",
    )
    add_naming(parser)
    parser.add_argument('--again', action='store_true', help='evaluate what has been evaluated')
    add_launch_arguments(parser)
    return parser


def evaluate(cfg: Config, name: str) -> Measured:
    """Run a benchmark, as tools/test.py does."""
    # visualisers, loggers and message hubs are global by this name
    cfg.experiment_name = f'{name}_{time.time_ns()}'
    if cfg.get('visualizer') is not None:
        cfg.visualizer.name = cfg.experiment_name
    started = time.perf_counter()
    check_loading_of(cfg)
    runner = build_runner(cfg)
    metrics = runner.test()
    if metrics and 'mIoU' not in metrics:
        raise RunError(
            f'the table needs mIoU, and the metrics give {", ".join(sorted(metrics))} alone; leave '
            'test_evaluator.iou_metrics and prefix as they are'
        )
    if not metrics:
        raise LabelMapError('no image has a label map, so nothing was measured')
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
        threshold=deciding_threshold(cfg)[1],
        images=len(dataset),
        seconds=seconds,
        metrics={key: float(value) for key, value in metrics.items()},
        class_iou=scores,
    )


def run_one(
    name: str, protocol: Protocol | None, args: argparse.Namespace, thresholds: dict[str, float]
) -> TableRow:
    """Evaluate a benchmark, or find out why not."""
    label = PUBLISHED_PROTOCOL if protocol is None else protocol.name
    folder = Path(args.work_dir) / ('' if protocol is None else label) / name
    if protocol is not None and protocol.benchmarks.get(name) is None:
        return TableRow(label, Unknown(name, f'the {label} protocol is not known for it'))
    cfg, settings = configure(name, protocol, args, thresholds, list_benchmarks())
    if missing := missing_data(cfg):
        return TableRow(label, Missing(name, missing, cfg.benchmark.prepare), settings)
    return TableRow(label, find_or_measure(cfg, name, folder, args), settings)


def digest_of_data(cfg: Config) -> str | None:
    """Tells images and label maps of a benchmark from others: by names, sizes, times of change."""
    try:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmseg')):
            dataset = DATASETS.build(cfg.test_dataloader.dataset)
    except (OSError, ValueError):
        return None  # the evaluation says what is wrong
    digest = hashlib.sha256(str(len(dataset)).encode())
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        for path in (info.get('img_path'), info.get('seg_map_path')):
            if path is not None and os.path.isfile(path):
                state = os.stat(path)
                digest.update(f'{path} {state.st_size} {state.st_mtime_ns}\n'.encode())
    return digest.hexdigest()


def find_or_measure(
    cfg: Config, name: str, folder: Path, args: argparse.Namespace
) -> Measured | Failed:
    """The result that is kept in a folder, if it belongs to this config, or a new one."""
    kept = folder / 'result.json'
    mark = fingerprint(cfg, args.checkpoint, args.allow_partial)
    if kept.is_file() and not args.again:
        result = read_state(kept, f'{name} is evaluated again') or {}
        marks = [result.pop(name, None) for name in ('fingerprint', 'data')]
        if marks == [mark, digest_of_data(cfg)] and set(result) == set(Measured._fields):
            print(f'{folder.name}: evaluated before, with the same weights and settings')
            return Measured(**result)
    data = digest_of_data(cfg)
    cfg.update(load_from=args.checkpoint, resume=False, work_dir=str(folder))
    if args.launcher is not None:
        cfg.launcher = args.launcher
    elif cfg.get('launcher') is None:
        cfg.launcher = 'none'
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
        write_json(kept, {**row._asdict(), 'fingerprint': mark, 'data': data})
    return row


def write_table(rows: list[TableRow], args: argparse.Namespace) -> None:
    """Write the table in its three forms, of what there is so far."""
    folder = Path(args.work_dir)
    result = {
        'command': shlex.join(['python', 'tools/analysis_tools/zero_shot_table.py', *sys.argv[1:]]),
        'config': args.config,
        'checkpoint': args.checkpoint or NO_CHECKPOINT,
        'protocol': ' '.join(protocols_of(rows)),
        'protocols': {
            label: {row.found.name: row.settings and asdict(row.settings) for row in own}
            for label, own in protocols_of(rows).items()
        },
        'naming': args.naming or naming_of(with_options(args)),
        'machine': describe_machine(),
        'versions': versions(),
        'benchmarks': [
            {'state': row.state, 'protocol': row.protocol, **row.found._asdict()} for row in rows
        ],
    }
    write_json(folder / 'zero_shot.json', result)
    write_text(folder / 'zero_shot.csv', as_csv(rows))
    write_text(folder / 'zero_shot.md', as_markdown(rows, result))


def choose(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> list[tuple[str, Protocol | None]]:
    """Benchmarks and protocols to evaluate, or leave with the parser's usage message."""
    known = list_benchmarks()
    if unknown := [name for name in args.benchmarks or () if name not in known]:
        parser.error(f'unknown benchmarks {", ".join(unknown)}; there are {", ".join(known)}')
    chosen: list[tuple[str, Protocol | None]] = []
    labels: set[str] = set()
    for given in args.protocol:
        try:
            protocol = None if given == PUBLISHED_PROTOCOL else read_protocol(given)
        except ConfigError as error:
            parser.error(str(error))
        label = PUBLISHED_PROTOCOL if protocol is None else protocol.name
        if label in labels or (protocol is not None and label in known):
            parser.error(f'--protocol: {label} is given twice, or is the name of a benchmark')
        labels.add(label)
        names = list(known) if protocol is None else [n for n in protocol.benchmarks if n in known]
        chosen += [(name, protocol) for name in args.benchmarks or names]
    return chosen


def default_work_dir(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """Work directory by the names of config and checkpoint; another checkpoint's is refused."""
    checkpoint = args.checkpoint or NO_CHECKPOINT
    stem = f'{Path(args.config).stem}_{Path(checkpoint).stem}'
    stem += f'_{PUBLISHED_PROTOCOL}' if args.protocol == [PUBLISHED_PROTOCOL] else ''
    stem += f'_{args.naming}' if args.naming else ''
    folder = Path('work_dirs') / 'zero_shot' / stem
    table = folder / 'zero_shot.json'
    content = read_state(table, 'it is written anew') if table.is_file() else None
    before = str((content or {}).get('checkpoint', checkpoint))
    if Path(before).absolute() != Path(checkpoint).absolute():
        parser.error(f'{folder} has the table of {before}; give another folder by --work-dir')
    return str(folder)


def main() -> int:
    parser = build_parser()
    args = parser.parse_args()
    announce_local_rank(args.local_rank)
    args.config = find_config(parser, args.config)
    if args.checkpoint == NO_CHECKPOINT:
        args.checkpoint = None
    else:
        require_checkpoint(parser, args.checkpoint)
    chosen = choose(parser, args)
    if args.work_dir is None:
        args.work_dir = default_work_dir(parser, args)
    load_checkpoints_safely(trust=args.trust)
    rows: list[TableRow] = []
    try:
        check_writable(args.work_dir, 'work_dir')
        names = dict.fromkeys(name for name, _ in chosen)
        thresholds = parse_thresholds(args.thresholds, names)
        check_all(chosen, args, thresholds, list_benchmarks())
        for name, protocol in chosen:
            rows.append(run_one(name, protocol, args, thresholds))
            if is_main_process():
                write_table(rows, args)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    if is_main_process():
        print(f'\n{as_markdown(rows)}\nWritten to {args.work_dir}/zero_shot.md, .csv and .json')
    failed = any(isinstance(row.found, Failed) for row in rows)
    measured = any(isinstance(row.found, Measured) for row in rows)
    return 0 if measured and not failed else 1


if __name__ == '__main__':
    status = main()
    if status == 0:
        end_job()
    sys.exit(status)
