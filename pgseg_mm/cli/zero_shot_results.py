"""Results of zero-shot benchmarks: their rows, and the tables that are written of them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from pgseg_mm.serialization.digests import sha256_of
from pgseg_mm.serialization.locating import locate
from pgseg_mm.text.words import load_vocabulary
from pgseg_mm.version import __version__

from .parts import type_name
from .protocol_tables import background_in_words, protocol_table
from .protocols import HOOK, ProtocolSettings
from .provenance import describe

REPORTED_METRICS = ('mIoU', 'aAcc', 'mAcc')
SETTINGS = (
    'short_side',
    'long_side',
    'window',
    'stride',
    'words',
    'templates',
    'normalize_prompts',
    'logit_scale',
    'area_threshold',
    'pamr',
)
"""Settings that stand in the CSV file, beside the background."""


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


class Unknown(NamedTuple):
    """A benchmark that a protocol says nothing of."""

    name: str
    reason: str


class Failed(NamedTuple):
    """A benchmark that ended with an error."""

    name: str
    error: str


class TableRow(NamedTuple):
    """What became of a benchmark by a protocol."""

    protocol: str
    found: Measured | Missing | Unknown | Failed
    settings: ProtocolSettings | None = None
    """What was in force; ``None`` where the protocol says nothing."""

    @property
    def state(self) -> str:
        """``'measured'``, ``'missing'``, ``'unknown'`` or ``'failed'``."""
        return type(self.found).__name__.lower()


def protocols_of(rows: Sequence[TableRow]) -> dict[str, list[TableRow]]:
    """Rows by protocol, in their order."""
    found: dict[str, list[TableRow]] = {}
    for row in rows:
        found.setdefault(row.protocol, []).append(row)
    return found


def as_csv(rows: Sequence[TableRow]) -> str:
    """A line a benchmark and protocol, those without a result with empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    columns = ['benchmark', 'protocol', 'state', 'classes', 'threshold', 'images', 'seconds']
    writer.writerow([*columns, *REPORTED_METRICS, 'background', *SETTINGS])
    for row in rows:
        found = row.found
        cells: list[Any] = [found.name, row.protocol, row.state]
        if isinstance(found, Measured):
            cells += [found.classes, found.threshold, found.images, f'{found.seconds:.1f}']
            cells += [found.metrics.get(metric) for metric in REPORTED_METRICS]
        else:
            cells += [None] * (4 + len(REPORTED_METRICS))
        if row.settings is not None:
            cells.append(background_in_words(row.settings))
            cells += [getattr(row.settings, name) for name in SETTINGS]
        writer.writerow(cells)
    return text.getvalue()


def _one_protocol(rows: Sequence[TableRow]) -> list[str]:
    lines = [
        '| Benchmark | Classes | Background threshold | Images | mIoU | aAcc | mAcc |',
        '| --- | --: | --: | --: | --: | --: | --: |',
    ]
    for row in rows:
        found = row.found
        if isinstance(found, Measured):
            threshold = 'no background' if found.threshold is None else f'{found.threshold:g}'
            scores = ' | '.join(f'{found.metrics[metric]:.2f}' for metric in REPORTED_METRICS)
            cells = f'{found.classes} | {threshold} | {found.images} | {scores}'
            lines.append(f'| {found.name} | {cells} |')
    return lines


def _several_protocols(rows: Sequence[TableRow]) -> list[str]:
    """The mIoU of each benchmark, with a column for each protocol."""
    protocols = list(protocols_of(rows))
    lines = [
        f'| mIoU | {" | ".join(protocols)} |',
        f'| --- |{" --: |" * len(protocols)}',
    ]
    cells = {
        (row.found.name, row.protocol): f'{row.found.metrics["mIoU"]:.2f}'
        for row in rows
        if isinstance(row.found, Measured)
    }
    for name in dict.fromkeys(row.found.name for row in rows):
        found = [cells.get((name, protocol), '') for protocol in protocols]
        if any(found):
            lines.append(f'| {name} | {" | ".join(found)} |')
    return lines


def _notes(rows: Sequence[TableRow]) -> list[str]:
    several = len(protocols_of(rows)) > 1
    notes: dict[str, None] = {}
    for row in rows:
        name = f'{row.found.name} by {row.protocol}' if several else row.found.name
        match row.found:
            case Missing(benchmark, missing, prepare):
                notes[
                    f'- {benchmark} was not evaluated: {", ".join(missing)} cannot be found. '
                    f'To prepare the data, {prepare}.'
                ] = None
            case Unknown(_, reason):
                notes[f'- {name} was not evaluated: {reason}.'] = None
            case Failed(_, error):
                notes[f'- {name} FAILED: {error}'] = None
            case _:
                pass
    return list(notes)


def _protocols(rows: Sequence[TableRow]) -> list[str]:
    """What each protocol consists of."""
    lines = []
    for name, own in protocols_of(rows).items():
        settings = [row.settings for row in own if row.settings is not None]
        unknown = [row.found.name for row in own if isinstance(row.found, Unknown)]
        if settings:
            lines += ['', f'## The {name} protocol', '', *protocol_table(settings, unknown)]
    return lines


def as_markdown(rows: Sequence[TableRow], result: dict[str, Any] | None = None) -> str:
    """The table, what is missing, of what the protocols consist, and with a result how it was made.

    Args:
        rows: What was found so far.
        result: Command, config and so on; see :func:`.provenance.describe`.
    """
    several = len(protocols_of(rows)) > 1
    lines = _several_protocols(rows) if several else _one_protocol(rows)
    notes = _notes(rows)
    if result is None:
        return '\n'.join([*lines, '', *notes, *_protocols(rows)])
    naming = f', naming by {result["naming"]}' if result['naming'] else ''
    by = 'protocols' if several else 'protocol'
    head = [
        '# Zero-shot segmentation',
        '',
        f'`{result["checkpoint"]}` by `{result["config"]}`, {", ".join(protocols_of(rows))} {by}'
        f'{naming}. Metrics in percent.',
        '',
    ]
    made = ['## How it was made', '', *describe(result), '']
    return '\n'.join([*head, *lines, '', *notes, *_protocols(rows), '', *made])


def fingerprint(cfg: Config, checkpoint: str | None, allow_partial: bool = False) -> str:
    """Tells whether a result belongs to these weights, words, settings and this version.

    Args:
        cfg: Config of the evaluation.
        checkpoint: Its weights, or ``None`` for those that the config names.
        allow_partial: Whether weights that lack may be random.
    """
    digest = hashlib.sha256(b'partial' if allow_partial else b'')
    digest.update(__version__.encode())
    given = [cfg.get('model'), cfg.get('custom_hooks')]
    for part in (*given, *map(cfg.get, ('test_dataloader', 'test_evaluator', 'test_cfg'))):
        digest.update(json.dumps(part, sort_keys=True, default=str).encode())
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if type_name(hook) == HOOK]
    for words in [part.get('vocabulary') for part in (cfg.model, *hooks)]:
        if words is not None:
            digest.update(repr(load_vocabulary(words).words).encode())
    files = [] if checkpoint is None else [locate(checkpoint)]
    files += sorted({Path(text) for text in _texts(given) if os.path.isfile(text)})
    for path in files:
        digest.update(sha256_of(path).encode())
    return digest.hexdigest()


def _texts(part: Any) -> Iterator[str]:
    """All texts in a part of a config, some of which name files."""
    if isinstance(part, Mapping):
        part = list(part.values())
    if isinstance(part, str):
        yield part
    elif isinstance(part, list | tuple):
        for each in part:
            yield from _texts(each)
