"""The results of the GPU check as a page."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

from pgseg_mm.cli.provenance import describe

TITLES = {
    'correct': 'Correct',
    'step': 'Training step',
    'capacity': 'Capacity',
    'matching': 'Matching',
    'data': 'Data',
    'inference': 'Inference',
}
MARKS = {True: 'ok', False: '**failed**', None: 'not checked'}
ABOUT = """\
Ratios are of steps that took turns in one process. FLOPs are counted operation by operation in a
forward and a backward pass without recomputation, two for a multiply-add; utilisation is their rate
over the dense peak of the device in the same precision. Models are those of the published size with
random weights, images are noise. How each figure is made stands in `benchmarks/gpu/`.
"""
DRY_RUN_NOTE = """\
**A dry run at tiny sizes{where}: it shows that the stages run. No figure here means anything.**
"""


class Aim(NamedTuple):
    """A figure that is to be reached."""

    text: str
    stage: str
    figure: str
    compare: Callable[[float, float], bool]
    bound: float
    percent: bool = False


AIMS = (
    Aim('model-FLOPs utilisation, bf16 and compiled, largest batch: at least 40 %',
        'step', 'mfu', operator.ge, 0.40, True),
    Aim("images/s of GroupViT over transformers', bf16, at least 1.5",
        'step', 'peer bf16', operator.ge, 1.5),
    Aim("the same in TF32", 'step', 'peer tf32', operator.ge, 1.5),
    Aim("the same in fp16", 'step', 'peer fp16', operator.ge, 1.5),
    Aim("step of PGSeg over GroupViT's, bf16: at most 1.15",
        'step', 'npr bf16', operator.le, 1.15),
    Aim('predict over the bare encoder, 448 px, bf16: at most 1.1',
        'inference', 'predict 448 bf16', operator.le, 1.1),
    Aim('predict over the bare encoder, 1024 px, bf16: at most 1.1',
        'inference', 'predict 1024 bf16', operator.le, 1.1),
    Aim('the loader with 16 workers over what the fastest step consumes: at least 1',
        'data', 'loader over step', operator.ge, 1.0),
    Aim('share of the time that the step waits for data: under 5 %',
        'data', 'waits for data', operator.lt, 0.05, True),
    Aim('matching in threads saves of the bf16 step: at least 3 %, or its code goes',
        'matching', 'threads save', operator.ge, 0.03, True),
)  # fmt: skip


def report(result: dict[str, Any]) -> str:
    """The page.

    Args:
        result: What ``raw/gpu.json`` holds.
    """
    lines = ['# On a GPU', '']
    if result['small']:
        where = ' on the CPU' if result['device'] == 'cpu' else ''
        lines += [DRY_RUN_NOTE.format(where=where)]
    lines += [ABOUT, *_environment(result), '', '## Aims', '', *_aims(result)]
    for name, stage in result['stages'].items():
        lines += ['', f'## {TITLES.get(name, name)}', '', *_stage(stage)]
    return '\n'.join(lines) + '\n'


def _environment(result: dict[str, Any]) -> list[str]:
    more = f'- Commit {result["commit"]}, {result["date"]}'
    if result['device'] == 'cuda':
        more += f', driver {result["driver"] or "unknown"}, CUDA {result["cuda"]}'
    return [*describe(result), more]


def figures_of(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Figures by stage and name, with those that combine two stages."""
    found = {
        name: {k: v for piece in stage['pieces'].values() for k, v in piece['figures'].items()}
        for name, stage in result['stages'].items()
    }
    step, data = found.get('step', {}), found.get('data', {})
    rates = [value for name, value in step.items() if name.startswith('images_per_second')]
    if rates and 'loader 16' in data:
        data['loader over step'] = data['loader 16'] / max(rates)
    return found


def _aims(result: dict[str, Any]) -> list[str]:
    if result['small']:
        return ['Not looked at in a dry run.']
    figures = figures_of(result)
    lines = ['| aim | reached | |', '| --- | --: | --- |']
    for aim in AIMS:
        value = figures.get(aim.stage, {}).get(aim.figure)
        if value is None:
            lines.append(f'| {aim.text} | | not measured |')
            continue
        shown = f'{100 * value:.1f} %' if aim.percent else f'{value:.3f}'
        verdict = 'met' if aim.compare(value, aim.bound) else '**not met**'
        lines.append(f'| {aim.text} | {shown} | {verdict} |')
    return lines


def _stage(stage: dict[str, Any]) -> list[str]:
    lines = [f'{stage["status"]}, {stage["seconds"]:.0f} s', '']
    lines += ['| | | |', '| --- | --- | --- |']
    for name, piece in stage['pieces'].items():
        summary = ' '.join(piece['summary'].split()).replace('|', '\\|')
        lines.append(f'| {name} | {MARKS[piece["passed"]]} | {summary} |')
    for name, piece in stage['pieces'].items():
        if piece['rows']:
            lines += ['', f'**{name}**', '', *_table(piece['rows'])]
    if 'log' in stage and not stage['pieces']:
        lines += ['', '```', *stage['log'].strip().splitlines()[-12:], '```']
    return lines


def _table(rows: list[dict[str, Any]]) -> list[str]:
    columns = list(rows[0])
    cells = [columns, ['---'] * len(columns)]
    cells += [[str(row.get(column, '')) for column in columns] for row in rows]
    return [f'| {" | ".join(row)} |' for row in cells]
