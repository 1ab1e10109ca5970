"""Speed and memory of zero-shot segmentation, against its encoder alone and against transformers.

    python -m benchmarks.inference CONFIG [CHECKPOINT] [--also CONFIG ...]

All contestants see the same image in the same process, turn about, so that a noisy machine hurts
all alike. "encoder" is the image encoder on each of the image's windows and nothing else. "GroupViT
of transformers" is the peer, of the size of CONFIG and with random weights: the same windows, one
at a time, dense scores of classes x height x width for each, averaged, resized, argmax. Peak memory
is measured in a fresh process for each model. Without CHECKPOINT weights are random, and the
assignment's logits are scaled so that every group wins patches.
"""

import argparse
import statistics
import sys
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from mmengine.device import get_device

from pgseg_mm.cli.checkpoint_sources import require_checkpoint
from pgseg_mm.cli.provenance import describe
from pgseg_mm.cli.run_configs import find_config

from .groupvit_peer import PEER, load_peer
from .inference_contestants import (
    ENCODER,
    PREDICT,
    Contestant,
    Entry,
    InferenceSettings,
    Size,
    contestants,
)
from .outputs import make_parser, origin, parse, write_results
from .timing import (
    MIB,
    Stopwatch,
    can_measure_memory,
    check_rounds,
    in_fresh_process,
    peak,
    ratio,
    reset_peak,
    show_ratio,
)

INFERENCE_EXPLAINED = f"""\
Times are medians. Ratios are medians of the ratios within a round, with their middle half in
brackets; below 1 is faster. "{ENCODER}" is the floor: the image encoder alone on
each window of the image. "predict" is everything from the normalised image to the class of each
pixel, with classes embedded beforehand; ours encodes the windows in batches.
"{PEER}" takes the same windows one at a time and adds up dense scores of
classes x height x width.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, 'write the table here, too')
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
    return parser


@torch.inference_mode()
def measure_times(
    cases: list[Contestant], image: torch.Tensor, repeat: int
) -> dict[Contestant, list[float]]:
    """Seconds of each contestant in each round."""
    watch = Stopwatch[Contestant](image.device)
    watch.run({case: partial(case.run, image) for case in cases}, repeat)
    return watch.seconds


def inference_rows(seconds: dict[Contestant, list[float]]) -> list[dict[str, Any]]:
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
            'times_encoder': ratio(times, encoders[case.model]),
            'times_peer': ratio(times, peers[case.output_size])
            if case.task == PREDICT and peers
            else None,
            'seconds': [round(value, 6) for value in times],
        }
        for case, times in seconds.items()
    ]


def measure_memory(
    entry: Entry, settings: InferenceSettings, sizes: list[Size]
) -> list[dict[str, Any]]:
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
        before = reset_peak(device)
        with torch.inference_mode():
            case.run(image)
        peak_bytes = peak(device)
        rows.append(
            {
                'model': case.model,
                'size': size,
                'peak_mib': peak_bytes / MIB,
                'before_mib': before / MIB,
            }
        )
    return rows


def make_image(size: Size, device: torch.device) -> torch.Tensor:
    """Noise (1, 3, height, width), the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, *size, generator=generator).to(device)


def report(result: dict[str, Any]) -> str:
    """Document with both tables and how they were made."""
    settings = result['settings']
    weights = settings['checkpoint'] or (
        'random, with assignments sharpened so that every group wins pixels'
    )
    compiled = ' Encoder and head went through torch.compile.' if settings['compiled'] else ''
    lines = [
        '# Speed and memory of inference',
        '',
        f'One image of {_size(settings["size"])} (height x width), {settings["num_classes"]} '
        f'classes, {settings["repeat"]} rounds. Device: {settings["device"]}, threads: '
        f'{settings["threads"]}. Weights: {weights}.{compiled}',
        '',
        *_times(result['times'], settings['size']),
        '',
        INFERENCE_EXPLAINED,
    ]
    if result['memory']:
        lines += [*_memory(result['memory'], settings['device']), '']
    return '\n'.join([*lines, *describe(result), ''])


def _times(rows: list[dict[str, Any]], size: list[int]) -> list[str]:
    lines = [
        '| Model | Task | Output | ms | images/s | x encoder | x transformers |',
        '| --- | --- | --- | --: | --: | --: | --: |',
    ]
    for row in rows:
        output = '' if row['task'] != 'predict' else _size(row['output_size'] or size)
        lines.append(
            f'| {row["model"]} | {row["task"]} | {output} | {row["milliseconds"]:.1f} '
            f'| {row["images_per_second"]:.2f} | {show_ratio(row["times_encoder"])} '
            f'| {show_ratio(row["times_peer"])} |'
        )
    return lines


def _memory(rows: list[dict[str, Any]], device: str) -> list[str]:
    whole = 'Peak of the process' if device == 'cpu' else 'Peak allocated'
    lines = [
        f'| Model | Image and output | {whole}, MiB | before, with the model, MiB |',
        '| --- | --- | --: | --: |',
    ]
    lines += [
        f'| {row["model"]} | {_size(row["size"])} | {row["peak_mib"]:.0f} '
        f'| {row["before_mib"]:.0f} |'
        for row in rows
    ]
    return lines


def _size(size: list[int]) -> str:
    return f'{size[0]} x {size[1]}'


def main() -> None:
    parser = build_parser()
    args = parse(parser)
    args.config, *args.also = (find_config(parser, name) for name in (args.config, *args.also))
    if args.checkpoint is not None:
        require_checkpoint(parser, args.checkpoint)
    check_rounds(parser, '--repeat', args.repeat)
    torch.set_num_threads(args.threads)
    settings = InferenceSettings(
        tuple(args.output_size), args.num_classes, args.threads, args.device, args.compile
    )
    entries = [Entry(args.config, args.checkpoint), *map(Entry, args.also)]
    if load_peer():
        entries.append(Entry(args.config, peer=True))
    else:
        print('transformers is not installed: its GroupViT is left out', file=sys.stderr)
    device = torch.device(args.device)
    cases = contestants(entries, settings)
    rows = inference_rows(measure_times(cases, make_image(args.size, device), args.repeat))
    memory: list[dict[str, Any]] = []
    if not args.no_memory and can_measure_memory(device):
        del cases
        for entry in entries:
            sizes = [tuple(args.size), tuple(args.memory_size)]
            memory += in_fresh_process(measure_memory, entry, settings, sizes)
    result = {
        **origin('inference', *(['transformers'] if load_peer() else [])),
        'settings': {
            **asdict(settings),
            'size': args.size,
            'repeat': args.repeat,
            'checkpoint': args.checkpoint,
        },
        'times': rows,
        'memory': memory,
    }
    text = report(result)
    print(text)
    write_results(args, result, text)


if __name__ == '__main__':
    main()
