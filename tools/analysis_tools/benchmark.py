"""Speed and memory of zero-shot segmentation, against its encoder alone and against transformers.

    python tools/analysis_tools/benchmark.py CONFIG [CHECKPOINT] [--also CONFIG ...]

All contestants see the same image in the same process, turn about, so that a noisy machine hurts
all alike. "encoder" is the image encoder on each of the image's windows and nothing else. "GroupViT
of transformers" is the peer, of the size of CONFIG and with random weights: the same windows, one
at a time, dense scores of classes x height x width for each, averaged, resized, argmax. Peak memory
is measured in a fresh process for each model. Without CHECKPOINT weights are random, and the
assignment's logits are scaled so that every group wins patches.
"""

import argparse
import contextlib
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device

from inference_contestants import (
    ENCODER,
    PEER,
    PREDICT,
    Contestant,
    Entry,
    Settings,
    Size,
    contestants,
    load_peer,
)
from inference_report import report
from pgseg_mm.utils.launch import require_file
from pgseg_mm.utils.machine import describe_machine

MIB = 2**20
STATUS = Path('/proc/self/status')


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size: dict[str, Any] = {'type': int, 'nargs': 2, 'metavar': ('HEIGHT', 'WIDTH')}
    parser.add_argument('config', help='config whose model is measured')
    parser.add_argument('checkpoint', nargs='?', help='its weights; random by default')
    parser.add_argument('--also', nargs='+', default=[], metavar='CONFIG', help='more models')
    parser.add_argument('--size', **size, default=(448, 597), help='image (default: %(default)s)')
    parser.add_argument(
        '--output-size',
        **size,
        default=(640, 853),
        help='size that masks are resized to in the rows that say so (default: %(default)s)',
    )
    parser.add_argument(
        '--memory-size',
        **size,
        default=(1024, 2048),
        help='larger image, for memory alone (default: %(default)s)',
    )
    parser.add_argument('--num-classes', type=int, default=171, help='default: %(default)s')
    parser.add_argument('--repeat', type=int, default=15, help='rounds (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    parser.add_argument(
        '--compile',
        action='store_true',
        help='run encoder and head through torch.compile; the peer stays as it is',
    )
    parser.add_argument('--no-memory', action='store_true', help='leave out peak memory')
    parser.add_argument('--json', type=Path, help='write all single times here')
    parser.add_argument('--markdown', type=Path, help='write the table here, too')
    return parser


@torch.inference_mode()
def measure_times(
    cases: list[Contestant], image: torch.Tensor, repeat: int
) -> dict[Contestant, list[float]]:
    """Seconds of each contestant in each round; every round starts with another one."""
    for case in cases:
        case.run(image)
    seconds: dict[Contestant, list[float]] = {case: [] for case in cases}
    for i in range(repeat):
        start = i % len(cases)
        for case in cases[start:] + cases[:start]:
            seconds[case].append(_time(lambda case=case: case.run(image), image.device))
        print(f'round {i + 1} of {repeat}', file=sys.stderr)
    return seconds


def _time(call: Callable[[], object], device: torch.device) -> float:
    synchronize = torch.cuda.synchronize if device.type == 'cuda' else lambda: None
    synchronize()
    start = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - start


def summarise(seconds: dict[Contestant, list[float]]) -> list[dict[str, Any]]:
    """Rows of the table: medians, and ratios of times of the same round with their quartiles."""
    encoders = {case.model: times for case, times in seconds.items() if case.task == ENCODER}
    peers = {
        case.output_size: times
        for case, times in seconds.items()
        if case.model == PEER and case.task == PREDICT
    }
    return [
        {
            'model': case.model,
            'task': case.task,
            'output_size': case.output_size,
            'milliseconds': statistics.median(times) * 1e3,
            'images_per_second': 1 / statistics.median(times),
            'times_encoder': _ratio(times, encoders[case.model]),
            'times_peer': _ratio(times, peers[case.output_size])
            if case.task == PREDICT and peers
            else None,
            'seconds': [round(value, 6) for value in times],
        }
        for case, times in seconds.items()
    ]


def _ratio(times: list[float], others: list[float]) -> dict[str, float]:
    ratios = [mine / other for mine, other in zip(times, others, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method='inclusive')
    return {'median': median, 'low': low, 'high': high}


def measure_memory(entry: Entry, settings: Settings, sizes: list[Size]) -> list[dict[str, Any]]:
    """Peak memory of one prediction at each size; to be run in a process of its own.

    On the CPU it is that of the whole process, libraries and model included.
    """
    torch.set_num_threads(settings.threads)
    device = torch.device(settings.device)
    cases = contestants([entry], settings)
    case = next(case for case in cases if case.task == PREDICT and case.output_size is None)
    rows = []
    for size in sizes:
        image = make_image(size, device)
        before = _reset_peak(device)
        with torch.inference_mode():
            case.run(image)
        peak = _peak(device)
        rows.append(
            {
                'model': case.model,
                'size': size,
                'peak_mib': peak / MIB,
                'before_mib': before / MIB,
            }
        )
    return rows


def _reset_peak(device: torch.device) -> int:
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path('/proc/self/clear_refs').write_text('5', encoding='ascii')
    return _status('VmRSS')


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == 'cuda' else _status('VmHWM')


def _status(key: str) -> int:
    lines = STATUS.read_text(encoding='ascii').splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f'{key}:'))


def make_image(size: Size, device: torch.device) -> torch.Tensor:
    """Noise (1, 3, height, width), the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, *size, generator=generator).to(device)


def versions() -> dict[str, str]:
    """Of the libraries that take part."""
    found = {}
    for name in ('mmengine', 'onedl-mmengine', 'mmsegmentation', 'onedl-mmsegmentation'):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    if load_peer():
        found['transformers'] = version('transformers')
    return found


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    for config in (args.config, *args.also):
        require_file(parser, 'config', config)
    if args.checkpoint is not None:
        require_file(parser, 'checkpoint', args.checkpoint)
    if args.repeat < 2:
        parser.error(f'--repeat must be at least 2, for the spread, got {args.repeat}')
    torch.set_num_threads(args.threads)
    settings = Settings(
        tuple(args.output_size), args.num_classes, args.threads, args.device, args.compile
    )
    entries = [Entry(args.config, args.checkpoint), *map(Entry, args.also)]
    if load_peer():
        entries.append(Entry(args.config, peer=True))
    else:
        print('transformers is not installed: its GroupViT is left out', file=sys.stderr)
    device = torch.device(args.device)
    cases = contestants(entries, settings)
    rows = summarise(measure_times(cases, make_image(args.size, device), args.repeat))
    memory: list[dict[str, Any]] = []
    if device.type == 'cpu' and not STATUS.exists():
        print('peak memory on the CPU can be read on Linux only and is left out', file=sys.stderr)
    elif not args.no_memory:
        del cases
        for entry in entries:
            with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as process:
                sizes = [tuple(args.size), tuple(args.memory_size)]
                memory += process.submit(measure_memory, entry, settings, sizes).result()
    result = {
        'command': shlex.join(['python', 'tools/analysis_tools/benchmark.py', *sys.argv[1:]]),
        'settings': {
            **asdict(settings),
            'size': args.size,
            'repeat': args.repeat,
            'checkpoint': args.checkpoint,
        },
        'machine': describe_machine(),
        'versions': versions(),
        'times': rows,
        'memory': memory,
    }
    text = report(result)
    print(text)
    for path, content in ((args.json, json.dumps(result, indent=1) + '\n'), (args.markdown, text)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding='utf-8')


if __name__ == '__main__':
    main()
