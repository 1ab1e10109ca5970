"""The results of zero_shot_table.py as Markdown and CSV."""

import csv
import io
from typing import Any, NamedTuple

from pgseg_mm.cli.provenance import describe

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


def as_csv(rows: list[TableRow]) -> str:
    """A line a benchmark, those without a result with empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(
        ['benchmark', 'state', 'classes', 'threshold', 'images', 'seconds', *REPORTED_METRICS]
    )
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
    head = [
        '# Zero-shot segmentation',
        '',
        f'`{result["checkpoint"]}` by `{result["config"]}`, {result["protocol"]} protocol. Metrics '
        'in percent.',
        '',
    ]
    return '\n'.join([*head, *lines, '', *notes, *([''] if notes else []), *describe(result), ''])
