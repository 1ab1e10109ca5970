"""The page of the ablation: tables over seeds, against the reference, and curves."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure as Canvas

from pgseg_mm.cli.provenance import describe
from pgseg_mm.serialization.atomic_files import write_atomically

from .ablation_cells import CURVE_POINTS, Cell
from .ablation_rows import COMPARED, CONTROLS, MAIN, NPR_ROWS, REFERENCE, WITH_NPR, about

Result = dict[str, Any]
Figure = Callable[[Result], float | None]
WAYS = ('oracle', 'present')
WITHOUT_NPR = ('pastes_no_npr', 'pastes_groupvit')
RULES = ('affinity', 'logits', 'mixture')
INTRODUCTION = """# What each part is worth

The tiny model, trained on emoji scenes by each row's options, and judged on scenes that no choice
of its settings was made on: the converter's with another seed. Only late interaction was chosen by
the figures here, by seeds 1 and 2, which flatters its rows. Groups are hard, as published, and
scores are not refined, unless a row says otherwise.

```bash
python -m benchmarks.ablation --jobs 2
```

trains all of it, with five seeds, one thread a run (`--help` has the options)HOURS. What is done is
not done again, so the command may be killed at any time; it writes this page, its picture and its
raw results. A first try, two runs of five to eight minutes:

```bash
python -m benchmarks.ablation --rows pgseg pastes --seeds 0 --world 20 --stages 1 --jobs 2 \\
    --json work_dirs/ablation/ablation.json --markdown work_dirs/ablation/ablation.md
```

Variants of NPR and controls are trained where `--rows` names them, and so is
[a row of your own](#a-row-of-your-own). On a GPU more runs fit side by side; a machine without a
network gets it by `make gpu-bundle` ([how](README.md#on-a-gpu-machine-without-a-network)).

What follows from these tables is in [tiny_model.md](../tiny_model.md). All figures but the groups
used are mean IoU in percent. **Own** is the ordinary prediction, by the
[naming rule](../method.md#42-groups-to-classes) of the row: this is the score that counts.
**Oracle** gives each group the majority class of its ground-truth pixels, so that only grouping
counts; **present** chooses only among the classes that are in the image. **Objects** and
**textures** are own, over these classes alone; **groups used** are those that win at least one
patch.

Means over seeds ± standard deviation; Δ is the mean difference to `pgseg` with the same seed ± its
standard error, with both named by the row's rule (the table below has `pgseg` by each). A cell
without a figure has no run yet; a figure of fewer seeds than asked for has their number in
brackets. NPR begins at half of the training, as in the config, unless a row says otherwise."""
VARIANTS_INTRODUCTION = """Over pastes, beside training without the loss, which Δ is the
difference to, and without prototypes at all. **Halfway** is that difference in own mean IoU at half
of the training, where the loss begins unless the row says otherwise. What is there already is not
the loss's: another clustering also changes the reconstruction, from the first step, and where
gradients are clipped, the loss's temperature is one more parameter in their norm, which rounds
otherwise, and small differences grow. Rows were continued with more seeds because their seed 0 was
among the best, so that it flatters their means."""
COMPARED_INTRODUCTION = """Rows that differ in one thing: mean difference by the same seed ± its
standard error, both named by the rule of the first."""
OWN_ROW = """## A row of your own

is an entry of `CONTROLS` in `benchmarks/ablation_rows.py`: a name, and what it changes in the
config of scenes (`configs/pgseg/pgseg_tiny-p8_emoji-scenes-64x64.py`), as `--cfg-options` has it.

```python
CONTROLS = {  # beside those that are there
    'pastes_three_rounds': {**PASTES, 'model.backbone.prototypes.num_iters': 3},
    'pgseg_early_npr': {**MEAN_CONTRAST, 'model.decode_head.loss_npr.begin': 0},
}
```

That config joins images and contrasts regions: a row beside `pgseg` begins with
`MEAN_CONTRAST`, one beside `pastes` with `PASTES`. Steps count as in the config, and are shrunk to
those of the ablation; groups are hard unless `model.backbone.hard_assign` is set. A part of your
own is registered by a module that `benchmarks/ablation_run.py` imports.

```bash
python -m benchmarks.ablation --rows pastes_three_rounds pastes --world 20 --stages 1 --seeds 0 1 \\
    --jobs 2 --json work_dirs/ablation/ablation.json --markdown work_dirs/ablation/ablation.md
```
"""


class Table:
    """Runs at one scale, and those of their results that are known.

    Args:
        cells: The runs, of all rows and seeds.
        known: Results by key.
        reference: The row that others are compared with.
    """

    def __init__(
        self, cells: Sequence[Cell], known: dict[str, Result], reference: str = REFERENCE
    ) -> None:
        self.cells = cells
        self.reference = reference
        self.naming = {cell.row: cell.settings['naming'] for cell in cells}
        self.rows = list(dict.fromkeys(cell.row for cell in cells))
        self.seeds = list(dict.fromkeys(cell.seed for cell in cells))
        self.results = {
            (cell.row, cell.seed): known[cell.key] for cell in cells if cell.key in known
        }

    @property
    def title(self) -> str:
        first = self.cells[0]
        stages = 'one grouping stage' if first.stages == 1 else 'two grouping stages'
        return f'{first.classes} classes, {stages}, {first.iterations} iterations'

    def values(self, row: str, figure: Figure) -> dict[int, float]:
        """A figure of a row by seed."""
        found = {
            seed: figure(self.results[row, seed])
            for seed in self.seeds
            if (row, seed) in self.results
        }
        return {seed: value for seed, value in found.items() if value is not None}

    def cell(self, row: str, figure: Figure) -> str:
        """Mean and standard deviation of a figure."""
        values = list(self.values(row, figure).values())
        if not values:
            return ''
        spread = f' ± {stdev(values):.1f}' if len(values) > 1 else ''
        of = f' ({len(values)})' if len(values) < len(self.seeds) else ''
        return f'{mean(values):.1f}{spread}{of}'

    def halfway(self, row: str) -> str:
        """The difference in own mean IoU at half of the training."""
        half = CURVE_POINTS // 2 * self.cells[0].curve_interval
        return self.difference(row, _iou(self.naming[row], at=half))

    def difference(self, row: str, figure: Figure, other: str | None = None) -> str:
        """Mean difference to another row with the same seeds, and its standard error.

        Args:
            row: The row.
            figure: What is compared.
            other: The row that it is compared with; by default the reference.
        """
        other = self.reference if other is None else other
        if row == other:
            return ''
        mine, others = self.values(row, figure), self.values(other, figure)
        differences = [mine[seed] - others[seed] for seed in mine if seed in others]
        if not differences:
            return ''
        error = ''
        if len(differences) > 1:
            error = f' ± {stdev(differences) / math.sqrt(len(differences)):.1f}'
        of = f' ({len(differences)})' if len(differences) < len(self.seeds) else ''
        return f'{mean(differences):+.1f}{error}{of}'

    def lines(self) -> list[str]:
        """Both tables as Markdown."""
        by_rule = ['The same groups, named by each rule:', '', *self.by_rule()]
        return [*self.figures(), '', *by_rule, *self.compared()]

    def figures(self, halfway: bool = False) -> list[str]:
        """The table of rows, and their differences to the reference, those halfway on demand."""
        last = ['halfway'] if halfway else []
        names = 'row | names by | own | Δ | oracle | Δ | present | Δ | objects | textures'
        names = ' | '.join([names, 'groups used', *last])
        lines = [f'| {names} |', '|---|---|' + '--:|' * (9 + len(last))]
        for row in self.rows:
            naming = self.naming[row]
            figures = [_iou(naming), *map(_iou, WAYS)]
            pairs = [(self.cell(row, each), self.difference(row, each)) for each in figures]
            more = [
                self.cell(row, _iou(naming, 'objects')),
                self.cell(row, _iou(naming, 'textures')),
                self.cell(row, lambda result: result['curve'][-1]['groups_used']),
                *([self.halfway(row)] if halfway else []),
            ]
            texts = [f'`{row}`', naming, *(text for pair in pairs for text in pair), *more]
            lines.append('| ' + ' | '.join(texts) + ' |')
        return lines

    def compared(self) -> list[str]:
        """The table of rows that differ in one thing, if both of a pair have results."""
        known = {row for row, _ in self.results}
        pairs = [pair for pair in COMPARED if known.issuperset(pair)]
        if not pairs:
            return []
        lines = ['', COMPARED_INTRODUCTION, '', '| row | beside | own | oracle | present |']
        lines.append('|---|---|' + '--:|' * 3)
        for row, other in pairs:
            figures = [_iou(self.naming[row]), *map(_iou, WAYS)]
            texts = [self.difference(row, each, other) for each in figures]
            lines.append('| ' + ' | '.join([f'`{row}`', f'`{other}`', *texts]) + ' |')
        return lines

    def by_rule(self) -> list[str]:
        """The table of rows by naming rules."""
        lines = ['| row | ' + ' | '.join(RULES) + ' |', '|---|' + '--:|' * len(RULES)]
        for row in self.rows:
            texts = [self.cell(row, _iou(rule)) for rule in RULES]
            lines.append('| ' + ' | '.join([f'`{row}`', *texts]) + ' |')
        return lines


def _iou(way: str, kind: str = 'all', at: int | None = None) -> Figure:
    """Mean IoU by a way, of the last point or of that at an iteration, if there is one."""

    def figure(result: Result) -> float | None:
        points = [point for point in result['curve'] if at in (None, point['iteration'])]
        return points[-1]['mIoU'][way][kind] if points else None

    return figure


def tables_of(cells: Iterable[Cell], known: dict[str, Result]) -> list[Table]:
    """A table for each scale."""
    scales: dict[tuple[int, int], list[Cell]] = {}
    for cell in cells:
        scales.setdefault((cell.classes, cell.stages), []).append(cell)
    return [Table(scale, known) for scale in scales.values()]


def report(
    cells: Sequence[Cell], known: dict[str, Result], raw: Path, picture: Path | None, page: Path
) -> str:
    """The page.

    Args:
        cells: All runs that belong into it.
        known: Results by key; those of other runs are counted, and left out.
        raw: File with all results.
        picture: The curves, if there are any.
        page: Where the page will be, for its links.
    """
    tables = tables_of(cells, known)
    lines = [INTRODUCTION.replace('HOURS', _hours(tables)), '']
    if missing := _missing(cells, known):
        lines += [f'**{missing} are missing**; the tables below say which.', '']
    for table in tables:
        lines += [f'## {table.title[0].upper()}{table.title[1:]}', '']
        shown = Table([cell for cell in table.cells if cell.row not in NPR_ROWS], known)
        if shown.results:
            lines += [*shown.lines(), '']
        if missing := _missing(table.cells, known):
            lines += [f'{missing} are missing.', '']
        lines += _variants(table, known)
    if picture is not None:
        link = os.path.relpath(picture, page.parent)
        lines += ['## During training', '']
        lines += [f"![Mean IoU by the row's own naming rule over iterations]({link})", '']
    lines += ['## The rows', '']
    rows = dict.fromkeys(cell.row for cell in cells)
    lines += [f'- `{row}`: {about(row)}' for row in rows]
    used = [known[cell.key] for cell in cells if cell.key in known]
    names = [', '.join(f'`{row}`' for row in rows) for rows in (NPR_ROWS, CONTROLS)]
    lines += ['', OWN_ROW, f'Beside the main rows there are variants of NPR: {names[0]}.', '']
    lines += [f'And controls: {names[1]}.']
    lines += ['', '## Where it is from', '', *_origins(cells, used, len(known) - len(used))]
    lines.append(f'- Single results: [{raw.name}]({os.path.relpath(raw, page.parent)})')
    return '\n'.join([*lines, ''])


def _hours(tables: Sequence[Table]) -> str:
    """What all runs take, by those there are."""
    took = {
        table.title: mean(sum(result['seconds'].values()) for result in table.results.values())
        for table in tables
        if table.results
    }
    if not took:
        return ''
    seconds = 0.0
    for table in tables:
        runs = sum(cell.row in MAIN for cell in table.cells)
        # one without a run is taken to be as long as the longest
        seconds += runs * took.get(table.title, max(took.values()))
    return f': some {seconds / 3600:.0f} hours of a core'


def _missing(cells: Sequence[Cell], known: dict[str, Result]) -> str:
    """How many runs there are not, of the rows that are trained unless others are asked for."""
    main = [cell for cell in cells if cell.row in MAIN]
    missing = sum(cell.key not in known for cell in main)
    return f'{missing} of {len(main)} runs of the main rows' if missing else ''


def _variants(table: Table, known: dict[str, Result]) -> list[str]:
    """Variants of NPR beside what they would be without."""
    if not any(row in NPR_ROWS for row, _ in table.results):
        return []
    cells = [cell for cell in table.cells if cell.row in (*WITHOUT_NPR, *WITH_NPR, *NPR_ROWS)]
    variants = Table(cells, known, reference=WITHOUT_NPR[0])
    return [
        '### Variants of NPR',
        '',
        VARIANTS_INTRODUCTION,
        '',
        *variants.figures(halfway=True),
        '',
    ]


def _origins(cells: Sequence[Cell], used: Sequence[Result], others: int) -> list[str]:
    first = cells[0]
    train, new = first.world.train, first.world.new
    counts = ', '.join(
        f'{world.new.num_val} for {world.new.num_classes} classes'
        for world in dict.fromkeys(cell.world for cell in cells)
    )
    lines = [
        f'- Data: {train.num_train} training pairs of {train.image_size} px, seed {train.seed}; '
        f'judged by new scenes of seed {new.seed}: {counts}',
        f'- Batch size: {first.settings["batch_size"]}; seeds: '
        + ', '.join(str(seed) for seed in dict.fromkeys(cell.seed for cell in cells)),
    ]
    if others > 0:
        lines.append(f'- Left out: {others} results of other settings, which the raw file keeps')
    origins = dict.fromkeys('\n'.join(describe(result)) for result in used)
    commits = dict.fromkeys(
        commit for result in used for commit in result.get('commits') or [result['commit']]
    )
    if commits:
        lines.append(f'- Commits: {", ".join(commits)}')
    return [*lines, *dict.fromkeys(line for text in origins for line in text.split('\n'))]


def draw_curves(cells: Sequence[Cell], known: dict[str, Result], path: Path) -> bool:
    """Draw the mean IoU of the main rows over training, a panel for each scale.

    Returns:
        Whether there is anything to draw.
    """
    main = [cell for cell in cells if cell.row in MAIN]
    tables = [table for table in tables_of(main, known) if table.results]
    if not tables:
        return False
    figure = Canvas(figsize=(4.2 * len(tables) + 2, 4), layout='constrained')
    panels = figure.subplots(1, len(tables), squeeze=False, sharey=True)[0]
    colours = colormaps['tab20'].colors
    for panel, table in zip(panels, tables, strict=True):
        for row in table.rows:
            points = _mean_curve(table, row)
            if points:
                # of all rows, so that a row looks alike in each panel
                colour = colours[[*MAIN].index(row)]
                style = '--' if row == REFERENCE else '-'
                panel.plot(*zip(*points, strict=True), style, marker='.', label=row, color=colour)
        panel.set_title(table.title.rpartition(',')[0], fontsize=9)
        panel.set_xlabel('iterations')
    panels[0].set_ylabel('mean IoU by the own naming rule, %')
    handles = {
        label: handle
        for panel in panels
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc='outside right', fontsize=8)
    write_atomically(path, lambda file: figure.savefig(file, dpi=80))
    return True


def _mean_curve(table: Table, row: str) -> list[tuple[int, float]]:
    """Iterations, and means over the seeds that are known."""
    naming = table.naming[row]
    values: dict[int, list[float]] = {}
    for seed in table.seeds:
        for point in table.results.get((row, seed), {}).get('curve', []):
            value = point['mIoU'][naming]['all']
            if value is not None:
                values.setdefault(point['iteration'], []).append(value)
    return [(iteration, mean(found)) for iteration, found in sorted(values.items())]
