"""Time of reading a checkpoint by this project's bounded reader, against ``torch.load``.

    python -m benchmarks.checkpoint_loading [--mib 250] [--rounds 11]

The file is made first: weights and AdamW's moments of many layers, and what a Runner logs. Both
read it from the page cache, turn about.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import HistoryBuffer

from pgseg_mm.cli.provenance import describe
from pgseg_mm.serialization.runner_checkpoints import load_training_checkpoint

from .outputs import make_parser, origin, parse, write_results
from .timing import MIB, Stopwatch, check_rounds, ratio, show_ratio

WIDTH = 384
OURS, THEIRS, UNSAFE = (
    'load_training_checkpoint',
    'torch.load(weights_only=True)',
    'torch.load(weights_only=False)',
)


def make_checkpoint(mib: int) -> dict[str, Any]:
    """A checkpoint of about so many MiB: a third weights, two thirds moments."""
    layers = max(1, mib * MIB // (3 * 4 * WIDTH * 4 * WIDTH))
    weights = {f'layers.{i}.weight': torch.randn(4 * WIDTH, WIDTH) for i in range(layers)}
    state = {
        i: {'step': torch.tensor(1.0), 'exp_avg': w.clone(), 'exp_avg_sq': w.clone()}
        for i, w in enumerate(weights.values())
    }
    groups = [{'lr': 1e-4, 'params': list(range(layers))}]
    return {
        'meta': {'epoch': 1, 'iter': 1000},
        'state_dict': weights,
        'optimizer': {'state': state, 'param_groups': groups},
        'message_hub': hub({}),
    }


def hub(history: dict[str, HistoryBuffer]) -> dict[str, Any]:
    """What a Runner keeps of its log."""
    keys = dict.fromkeys(history, True)
    return {'log_scalars': history, 'runtime_info': {'iter': 1000}, 'resumed_keys': keys}


def add_history(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The same with logged values, which ``torch.load(weights_only=True)`` does not take."""
    history = {f'train/loss_{i}': HistoryBuffer(list(range(1000)), [1] * 1000) for i in range(8)}
    return {**checkpoint, 'message_hub': hub(history)}


def measure(mib: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of the table, for both files."""
    rows = []
    plain = make_checkpoint(mib)
    with tempfile.TemporaryDirectory() as temporary:
        for name, content in (('tensors', plain), ('and history', add_history(plain))):
            path = Path(temporary) / 'checkpoint.pth'
            torch.save(content, path)
            safe = name == 'tensors'
            calls: dict[str, Any] = {OURS: lambda path=path: load_training_checkpoint(path)}
            if safe:
                calls[THEIRS] = lambda path=path: torch.load(path, weights_only=True)
            calls[UNSAFE] = lambda path=path: torch.load(path, weights_only=False)
            watch = Stopwatch[str]('cpu')
            watch.run(calls, rounds)
            rows += [
                {
                    'content': name,
                    'mib': path.stat().st_size / MIB,
                    'reader': reader,
                    'seconds': watch.seconds[reader],
                    'median': watch.median(reader),
                    'ours': None
                    if reader == OURS
                    else ratio(watch.seconds[OURS], watch.seconds[reader]),
                }
                for reader in calls
            ]
    return rows


def report(result: dict[str, Any]) -> str:
    """The page."""
    lines = [
        '# Reading of checkpoints',
        '',
        'Ratios are medians of the ratios within a round, with their middle half in brackets; '
        'below 1 the bounded reader is faster.',
        '',
        '| content | MiB | reader | s | bounded reader over it |',
        '| --- | --: | --- | --: | --: |',
    ]
    lines += [
        f'| {row["content"]} | {row["mib"]:.0f} | `{row["reader"]}` | {row["median"]:.3f} '
        f'| {show_ratio(row["ours"])} |'
        for row in result['rows']
    ]
    return '\n'.join([*lines, '', *describe(result), ''])


def main() -> None:
    parser = make_parser(__doc__, 'write the table here, too')
    parser.add_argument('--mib', type=int, default=250, help='size (default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=11, help='default: %(default)s')
    args = parse(parser)
    check_rounds(parser, '--rounds', args.rounds)
    result = {
        **origin('checkpoint_loading'),
        'rows': measure(args.mib, args.rounds),
    }
    text = report(result)
    print(text)
    write_results(args, result, text)


if __name__ == '__main__':
    main()
