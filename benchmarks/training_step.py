"""Time and memory of a training step, by option, against transformers' GroupViT.

    python -m benchmarks.training_step CONFIG [CONFIG ...] [--batch 16]

A step is forward, backward and AdamW on one batch of noise and random words. All steps are taken in
one process, turn about. The peer is transformers' GroupViT in the size of the first CONFIG, with
random weights, on the same images and captions. Peak memory is measured in a fresh process for each
row. Captions are as long as the tokenizer makes them (--tokens), and, in rows that say so, cut to
--trimmed-tokens as PGSegDataPreProcessor cuts them before every step. With --markdown the tables go
into a page, between two lines that mark their place, and the rest of the page stays.
"""

import argparse
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from torch.profiler import ProfilerActivity, profile

from pgseg_mm.cli.provenance import describe
from pgseg_mm.cli.run_configs import find_config
from pgseg_mm.engine.hooks.compile_hook import check_backend

from .groupvit_peer import PEER, load_peer
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
from .training_contestants import OPTIONS, PEER_OPTIONS, Case, Settings, training_steps

PROFILED_OPERATIONS = 14
BEGIN_MARK, END_MARK = (
    '<!-- measured by benchmarks.training_step -->',
    '<!-- end of what was measured -->',
)


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, 'write the tables into this page')
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='configs whose models train')
    parser.add_argument('--batch', type=int, default=16, help='images (default: %(default)s)')
    parser.add_argument('--tokens', type=int, default=77, help='of a caption, padding included')
    parser.add_argument(
        '--trimmed-tokens', type=int, default=32, help='of a trimmed caption (default: %(default)s)'
    )
    parser.add_argument(
        '--options', nargs='+', choices=OPTIONS, default=list(OPTIONS), help='default: all'
    )
    parser.add_argument('--rounds', type=int, default=11, help='default: %(default)s')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    parser.add_argument('--backend', default='inductor', help='of torch.compile')
    parser.add_argument('--no-memory', action='store_true', help='leave out peak memory')
    return parser


def make_cases(args: argparse.Namespace) -> list[Case]:
    """Rows of the table; the plain step on captions of either length comes first."""
    options = ['plain', *(option for option in args.options if option != 'plain')]
    lengths = (args.tokens, args.trimmed_tokens)
    entries = [(config, False, options) for config in args.configs]
    if load_peer():
        entries.append((args.configs[0], True, [o for o in options if o in PEER_OPTIONS]))
    else:
        print('transformers is not installed: its GroupViT is left out', file=sys.stderr)
    return [
        case
        for config, peer, names in entries
        for case in (
            *(Case(config, 'plain', length, peer) for length in lengths),
            *(Case(config, name, args.tokens, peer) for name in names[1:]),
        )
    ]


def step_rows(seconds: dict[Case, list[float]], tokens: int) -> list[dict[str, Any]]:
    """Rows of the table: medians, and ratios of times of the same round with their quartiles."""
    peers = {(case.option, case.tokens): times for case, times in seconds.items() if case.peer}
    rows = []
    for case, times in seconds.items():
        plain = seconds[Case(case.config, 'plain', tokens, case.peer)]
        alike = case.option if (case.option, case.tokens) in peers else 'plain'
        alike = 'bf16' if case.option == 'bf16-compile' and ('bf16', tokens) in peers else alike
        same = peers.get((alike, case.tokens))
        untrimmed = peers.get((alike, tokens))
        rows.append(
            {
                'model': case.model,
                'option': case.option,
                'tokens': case.tokens,
                'milliseconds': statistics.median(times) * 1e3,
                'times_plain': ratio(times, plain),
                'times_peer': None if same is None else ratio(times, same),
                'times_peer_untrimmed': None if untrimmed is None else ratio(times, untrimmed),
                'seconds': [round(value, 6) for value in times],
            }
        )
    return rows


def measure_memory(case: Case, settings: Settings) -> dict[str, Any]:
    """Peak memory of the second step of a process; to be run in a process of its own."""
    torch.set_num_threads(settings.threads)
    ((_, step),) = training_steps([case], settings)
    step()
    device = torch.device(settings.device)
    before = reset_peak(device)
    step()
    return {
        'model': case.model,
        'option': case.option,
        'tokens': case.tokens,
        'peak_mib': peak(device) / MIB,
        'before_mib': before / MIB,
    }


def profile_step(case: Case, settings: Settings) -> dict[str, Any]:
    """Operations that take most of a step's time; to be run in a process of its own."""
    torch.set_num_threads(settings.threads)
    ((_, step),) = training_steps([case], settings)
    step()
    on_cuda = torch.device(settings.device).type == 'cuda'
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities) as recorded:
        step()
    key = 'self_device_time_total' if on_cuda else 'self_cpu_time_total'
    spent = sorted(
        ((event.key, getattr(event, key) / 1e6, event.count) for event in recorded.key_averages()),
        key=lambda entry: -entry[1],
    )
    return {
        'model': case.model,
        'total_seconds': sum(entry[1] for entry in spent),
        'operations': [
            {'name': name, 'seconds': round(seconds, 6), 'calls': calls}
            for name, seconds, calls in spent[:PROFILED_OPERATIONS]
        ],
    }


def report(result: dict[str, Any]) -> str:
    """Tables of time and memory, of profiles, and how they were made."""
    settings = result['settings']
    lines = [
        f'{settings["batch"]} images, {settings["rounds"]} rounds, device: {settings["device"]}, '
        f'threads: {settings["threads"]}. Ratios are medians of the ratios within a round, with '
        'their middle half in brackets; below 1 is faster.',
        '',
        *_steps(result['times'], result['memory'], settings),
        '',
        f'"x {PEER}" compares with its step on captions of the same length, in the same precision '
        f'and with the same AdamW, never compiled; the last column with its step on '
        f'{settings["tokens"]} tokens.',
        *(
            [
                '',
                'Peak memory is that of '
                + (
                    'the whole process, libraries and model included.'
                    if settings['device'] == 'cpu'
                    else 'the allocator.'
                ),
            ]
            if result['memory']
            else []
        ),
    ]
    for profiled in result['profiles']:
        lines += ['', *_profile(profiled)]
    return '\n'.join([*lines, '', *describe(result), ''])


def check_page(page: Path) -> None:
    """Leave with a message if a page that is there has no place for the tables."""
    if page.is_file():
        place('', page)


def place(text: str, page: Path) -> str:
    """The page with the text between the two lines that mark its place; the text if it is new."""
    text = f'{BEGIN_MARK}\n\n{text}\n{END_MARK}\n'
    if not page.is_file():
        return text
    old = page.read_text(encoding='utf-8')
    if BEGIN_MARK not in old or END_MARK not in old:
        raise SystemExit(
            f'{page} has no lines {BEGIN_MARK} and {END_MARK}, between which the tables go'
        )

    return old[: old.index(BEGIN_MARK)] + text + old[old.index(END_MARK) + len(END_MARK) + 1 :]


def label_of(row: dict[str, Any]) -> str:
    """What the step of a row is; the attention of transformers' GroupViT is never fused."""
    label = OPTIONS[row['option']].label
    return (
        label.replace(', fused attention', ', attention not fused')
        if row['model'] == PEER
        else label
    )


def _steps(
    rows: list[dict[str, Any]], memory: list[dict[str, Any]], settings: dict[str, Any]
) -> list[str]:
    peaks = {(row['model'], row['option'], row['tokens']): row['peak_mib'] for row in memory}
    lines = [
        f'| Model | Step | Tokens | ms | peak, MiB | x plain | x {PEER} '
        f'| the same, {settings["tokens"]} tokens |',
        '| --- | --- | --: | --: | --: | --: | --: | --: |',
    ]
    for row in rows:
        mib = peaks.get((row['model'], row['option'], row['tokens']))
        lines.append(
            f'| {row["model"]} | {label_of(row)} | {row["tokens"]} '
            f'| {row["milliseconds"]:.0f} | {"" if mib is None else f"{mib:.0f}"} '
            f'| {show_ratio(row["times_plain"])} | {show_ratio(row["times_peer"])} '
            f'| {show_ratio(row["times_peer_untrimmed"])} |'
        )
    return lines


def _profile(profiled: dict[str, Any]) -> list[str]:
    total = profiled['total_seconds']
    lines = [
        f'{profiled["model"]}, a plain step, {total:.2f} s in operations:',
        '',
        '| Operation | % | ms | calls |',
        '| --- | --: | --: | --: |',
    ]
    lines += [
        f'| `{entry["name"]}` | {100 * entry["seconds"] / total:.1f} '
        f'| {1e3 * entry["seconds"]:.0f} | {entry["calls"]} |'
        for entry in profiled['operations']
    ]
    return lines


def main() -> None:
    parser = build_parser()
    args = parse(parser)
    args.configs = [find_config(parser, config) for config in args.configs]
    check_rounds(parser, '--rounds', args.rounds)
    if args.markdown is not None:
        check_page(args.markdown)
    words = args.trimmed_tokens - 2
    if not 3 <= words <= args.tokens - 2:
        parser.error(
            f'--trimmed-tokens must be from 5 to --tokens, got {args.trimmed_tokens} and '
            f'{args.tokens}'
        )
    if any('compile' in option for option in args.options):
        check_backend(args.backend, args.device)
    torch.set_num_threads(args.threads)
    settings = Settings(args.batch, words, args.threads, args.device, args.backend)
    device = torch.device(args.device)
    cases = make_cases(args)
    plain = [case for case in cases if case.option == 'plain' and case.tokens == args.tokens]
    profiles = [in_fresh_process(profile_step, case, settings) for case in plain]
    memory = []
    if not args.no_memory and can_measure_memory(device):
        memory = [in_fresh_process(measure_memory, case, settings) for case in cases]
    watch = Stopwatch[Case](device)
    watch.run(dict(training_steps(cases, settings)), args.rounds)
    result = {
        **origin('training_step', *(['transformers'] if load_peer() else [])),
        'settings': {
            **asdict(settings),
            'rounds': args.rounds,
            'tokens': args.tokens,
            'trimmed_tokens': args.trimmed_tokens,
        },
        'times': step_rows(watch.seconds, args.tokens),
        'memory': memory,
        'profiles': profiles,
    }
    text = report(result)
    print(text)
    page = None if args.markdown is None else place(text, args.markdown)
    write_results(args, result, page)


if __name__ == '__main__':
    main()
