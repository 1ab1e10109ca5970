"""Trains and judges a single run of the ablation, in a process of its own."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from pgseg_mm.engine.diagnosis import diagnose
from pgseg_mm.models.decode_heads.group_naming import NAMING_RULES
from pgseg_mm.serialization.atomic_files import read_state, write_json
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.runner_checkpoints import load_checkpoints_safely
from pgseg_mm.serialization.work_folders import find_checkpoint, lock_folder

from .ablation_cells import Cell
from .outputs import origin


@dataclass(frozen=True)
class Job:
    """What the process of a run is told."""

    cell: Cell
    data: Path
    folder: Path
    """Of the run: checkpoints and what is known on the way."""
    result: Path
    log: Path
    command: str
    commit: str
    keep: bool = False
    """Whether to keep the last checkpoint."""


class CurveHook(Hook):
    """Judges the model on the way, before the checkpoint is written, and ends with its parent.

    Args:
        progress: File for what is known so far.
        loader: The new scenes.
        every: Iterations from one point to the next.
        known: What a killed run has left.
    """

    priority = 'LOW'

    def __init__(
        self, progress: Path, loader: DataLoader, every: int, known: dict[str, Any]
    ) -> None:
        self.progress = progress
        self.loader = loader
        self.every = every
        self.known = known
        self.usage: dict[str, float] = {}
        self.start = 0.0

    def before_train(self, runner: Runner) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None):
        """Judge at the points of the curve."""
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            raise SystemExit('the command that started this run is gone; it can be resumed')
        done = runner.iter + 1
        if done % self.every and done != runner.max_iters:
            return
        trained_at = time.perf_counter()
        with torch.random.fork_rng():
            figures = judge(runner.model, self.loader)
        judged_at = time.perf_counter()
        seconds = self.known['seconds']
        seconds['training'] = round(seconds['training'] + trained_at - self.start, 1)
        seconds['judging'] = round(seconds['judging'] + judged_at - trained_at, 1)
        self.known['curve'].append({'iteration': done, **figures})
        write_json(self.progress, self.known)
        self.start = judged_at


def judge(model: torch.nn.Module, loader: DataLoader) -> dict[str, Any]:
    """Mean IoU in percent by each rule, of all classes and of both kinds."""
    classes = loader.dataset.metainfo['classes']
    textures = set(textures_of(loader))
    kinds = {
        'all': list(classes),
        'objects': [name for name in classes if name not in textures],
        'textures': [name for name in classes if name in textures],
    }
    found = diagnose(model, loader, NAMING_RULES)
    ious = {way: found.class_iou(way) for way in found.ways}
    return {
        'groups_used': round(found.used_groups, 2),
        'mIoU': {
            way: {kind: _mean(iou[name] for name in names) for kind, names in kinds.items()}
            for way, iou in ious.items()
        },
    }


def textures_of(loader: DataLoader) -> list[str]:
    """Names of the classes that fill the background."""
    file = Path(loader.dataset.data_root, 'textures.txt')
    return file.read_text(encoding='utf-8').split('\n')[:-1]


def _mean(values: Iterable[float]) -> float | None:
    """Mean of what is a number, as the metrics have it; None, as JSON has it, of nothing."""
    numbers = [value for value in values if not math.isnan(value)]
    return round(sum(numbers) / len(numbers), 3) if numbers else None


def train(job: Job) -> None:
    """Train, judge and write the result; goes on where a killed run has left off."""
    lock_folder(job.folder)
    cfg = job.cell.make_config(job.data, job.folder / 'train')
    cfg.experiment_name = job.cell.key
    load_checkpoints_safely()
    known = go_on_from_last(cfg, job)
    # a run that is broken off may go on with other code
    commits = dict.fromkeys([*known.get('commits', []), job.commit])
    known['commits'] = [*commits]
    every = job.cell.curve_interval
    runner = Runner.from_cfg(cfg)
    loader = Runner.build_dataloader(cfg.new_dataloader, seed=0)
    hook = CurveHook(job.folder / 'progress.json', loader, every, known)
    runner.register_hook(hook)
    runner.train()
    write_json(
        job.result,
        {
            'key': job.cell.key,
            **job.cell.settings,
            **known,
            **origin('ablation'),
            'command': job.command,
            'commit': job.commit,
        },
    )
    if not job.keep:
        shutil.rmtree(job.folder / 'train')


def go_on_from_last(cfg: Any, job: Job) -> dict[str, Any]:
    """Make the config go on from the last checkpoint; returns what was known there."""
    nothing = {
        'curve': [],
        'seconds': {'training': 0.0, 'judging': 0.0},
        'resumed': False,  # then the seconds lack what was lost
    }
    progress = job.folder / 'progress.json'
    known = read_state(progress, 'the run begins anew') if progress.is_file() else nothing
    try:
        latest = find_checkpoint(job.folder / 'train')
    except CheckpointError as error:
        print(f'the run begins anew: {error}')
        latest = None
    if known is not None and latest is not None:
        iteration = int(latest.stem.removeprefix('iter_'))
        known['curve'] = [point for point in known['curve'] if point['iteration'] <= iteration]
        points, rest = divmod(iteration, job.cell.curve_interval)
        # the last iteration is judged, too; a run that was told to end has stopped anywhere
        points += bool(rest) and iteration == job.cell.iterations
        if len(known['curve']) == points:
            cfg.resume, cfg.load_from = True, str(latest)
            return {**known, 'resumed': True}
    shutil.rmtree(job.folder / 'train', ignore_errors=True)
    return nothing


def run(job: Job) -> None:
    """The process of a run: one thread on a CPU, and a log of its own."""
    os.environ['OMP_NUM_THREADS'] = '1'
    torch.set_num_threads(1)
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open('ab') as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    train(job)
