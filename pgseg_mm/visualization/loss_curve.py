"""Curves of the losses and of the validation, from the log of a training run."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

LOSS_NAMES = {'loss_contrastive': 'contrastive'}
Curve = list[tuple[int, float]]
"""Steps and values."""


def find_scalars(work_dir: str | Path) -> Path:
    """Find the newest log of scalars that mmengine's ``LocalVisBackend`` has written.

    Args:
        work_dir: Work directory of one or more runs, or the folder of one run in it.

    Raises:
        FileNotFoundError: If there is none.
    """
    work_dir = Path(work_dir)
    found = [*work_dir.glob('vis_data/scalars.json'), *work_dir.glob('*/vis_data/scalars.json')]
    if not found:
        raise FileNotFoundError(
            f'no log of scalars in {work_dir}: expected TIMESTAMP/vis_data/scalars.json there; '
            "train first, with vis_backends=[dict(type='LocalVisBackend')] in the config"
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def read_scalars(path: str | Path) -> dict[str, Curve]:
    """Read a log of scalars.

    Args:
        path: File with a JSON object a line, as ``LocalVisBackend`` writes it. A last line that a
            killed run has left in part does not count.

    Returns:
        The curve of each scalar over iterations, in the order of the file. Validations of runs that
        log by epochs are at the latest iteration of the training before them.

    Raises:
        ValueError: If another line is no such object.
    """
    curves: dict[str, Curve] = defaultdict(list)
    lines = Path(path).read_text(encoding='utf-8').splitlines()
    latest = 0
    for number, line in enumerate(lines, 1):
        try:
            scalars = json.loads(line)
            step = scalars.pop('step')
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise ValueError(
                f'{path}, line {number}: no object with a step: {line[:80]!r}'
            ) from error
        if 'loss' in scalars:
            latest = step
        for name, value in scalars.items():
            curves[name].append((max(step, latest), value))
    return dict(curves)


def draw_loss_curve(work_dir: str | Path, out_file: str | Path | None = None) -> Figure:
    """Draw the losses of the newest run and, below them, the mean IoUs of its validations.

    Args:
        work_dir: Work directory of one or more runs, or the folder of one run in it.
        out_file: PNG file to write; its folder is made if need be.

    Returns:
        The figure.

    Raises:
        FileNotFoundError: If there is no log of scalars.
        ValueError: If the log has no loss.
    """
    path = find_scalars(work_dir)
    curves = read_scalars(path)
    losses = {_loss_name(name): curves[name] for name in curves if name.startswith('loss_')}
    if not losses:
        raise ValueError(
            f'{path} has no scalar that starts with loss_, only {sorted(curves)}; '
            'the run may have ended before its first log'
        )
    ious = {_iou_name(name): curves[name] for name in curves if name.startswith('mIoU')}
    panels = [('loss', losses)] + [('mIoU in %', ious)] * bool(ious)
    figure = Figure(figsize=(8, 3.2 * len(panels)), layout='constrained')
    axes = figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0]
    for axis, (title, named_curves) in zip(axes, panels, strict=True):
        _draw_curves(axis, title, named_curves)
    axes[-1].set_xlabel('iteration')
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    if out_file is not None:
        Path(out_file).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out_file, format='png', dpi=100)
    return figure


def _draw_curves(axis: Axes, title: str, curves: dict[str, Curve]) -> None:
    for name, curve in curves.items():
        marker = '.' if len(curve) < 20 else None
        axis.plot(*zip(*curve, strict=True), label=name, marker=marker)
    axis.set_ylabel(title)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()


def _loss_name(name: str) -> str:
    """``loss_npr_0`` as 'NPR, stage 1', ``loss_npr_text`` as 'NPR, text'."""
    if name.startswith('loss_npr_'):
        part = name.removeprefix('loss_npr_')
        return f'NPR, stage {int(part) + 1}' if part.isdecimal() else f'NPR, {part}'
    return LOSS_NAMES.get(name, name.removeprefix('loss_'))


def _iou_name(name: str) -> str:
    """``mIoU_objects`` as 'objects'."""
    return name.removeprefix('mIoU').removeprefix('_') or 'all classes'
