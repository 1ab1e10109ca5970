"""Whether the loader of tar shards feeds the training step, and how long the GPU waits for it."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import init_default_scope

from pgseg_mm.datasets import WebImageTextDataset

from ..data_loading import SHUFFLE, make_pairs, our_loader, pipeline
from .stage import PGSEG, TINY, Piece, Stage

WORKERS = (4, 16)
NUM_SHARDS = 16
BF16 = "dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=dict(enabled=False))"
TRAINING_CONFIG = """
_base_ = {base!r}
model = dict(text_encoder=dict(context_length=77))
train_pipeline = [
    dict(type='DecodeImage'),
    dict(type='mmpretrain.RandomResizedCrop', scale={side}, crop_ratio_range=(0.08, 1.0),
         backend='pillow', interpolation='bilinear'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='TokenizeCaption', context_length=77),
    dict(type='PackImageTextInputs'),
]
train_dataloader = dict(
    _delete_=True, batch_size={batch}, num_workers={workers}, persistent_workers=True,
    drop_last=True, sampler=dict(type='ResumableSampler', shuffle=True, infinite=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='WebImageTextDataset', pipeline=train_pipeline,
        sources=[dict(name='made', shards={shards!r}, samples={number})]))
optim_wrapper = {wrapper}
param_scheduler = []
train_cfg = dict(_delete_=True, type='ResumableIterLoop', max_iters={steps})
val_dataloader = val_cfg = val_evaluator = None
test_dataloader = test_cfg = test_evaluator = None
custom_hooks = []
log_processor = dict(by_epoch=False, window_size=1)
default_hooks = dict(
    logger=dict(interval=1, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=1000, save_best=None, save_last=False))
"""


def loader_speed(stage: Stage, folder: Path, number: int, workers: int) -> float:
    """Images a second of the shards' loader, after its first batches."""
    shards = sorted(str(path) for path in folder.glob('*.tar'))
    source = {'name': 'made', 'shards': shards, 'samples': number}
    dataset = WebImageTextDataset(source, pipeline('cv2'), shuffle_block=SHUFFLE)
    batches = iter(our_loader(dataset, stage.size(64, 8), workers, infinite=True))
    for _ in range(max(2 * workers, 1)):
        next(batches)
    read, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < stage.size(4, 1):
        read += len(next(batches)['inputs'])
    return read / (time.perf_counter() - begin)


def loader(stage: Stage, folder: Path, number: int, consumed: float | None) -> Piece:
    """The loader with some numbers of workers."""
    rows, figures = [], {}
    for workers in WORKERS if not stage.small else (1,):
        speed = loader_speed(stage, folder, number, workers)
        figures[f'loader {workers}'] = speed
        share = '' if consumed is None else f'{100 * speed / consumed:.0f} %'
        rows.append(
            {
                'workers': str(workers),
                'images/s': f'{speed:.0f}',
                'images/s and worker': f'{speed / workers:.0f}',
                'of the fastest step': share,
            }
        )
    most = max(figures.values())
    summary = f'{most:.0f} images/s at most, {os.cpu_count()} cores'
    if consumed is None:
        summary += '; the fastest step was not measured'
    else:
        needed = math.ceil(consumed / (most / max(int(row['workers']) for row in rows)))
        summary += f'; the fastest step consumes {consumed:.0f}: {needed} workers'
        figures['workers needed'] = needed
    return Piece(summary, passed=most > 0, rows=rows, figures=figures)


def training_run(stage: Stage, folder: Path, number: int) -> Piece:
    """A run of tools/train.py: how much of the time it waits for data."""
    steps, first = stage.size(60, 6), stage.size(20, 2)
    batch = stage.size(256, 4)
    workers = min(os.cpu_count() or 1, 16) if not stage.small else 1
    config = folder / 'training.py'
    config.write_text(
        TRAINING_CONFIG.format(
            base=str(TINY if stage.small else PGSEG),
            side=64 if stage.small else 224,
            batch=batch,
            workers=workers,
            shards=f'{folder}/{{00000..{NUM_SHARDS - 1:05d}}}.tar',
            number=number,
            steps=steps,
            wrapper=BF16 if stage.device == 'cuda' else "dict(type='OptimWrapper')",
        ),
        encoding='utf-8',
    )
    work_dir = folder / 'work'
    stage.command(
        'tools/train.py', config, '--work-dir', work_dir, '--cfg-options', 'randomness.seed=0'
    )
    (scalars,) = work_dir.rglob('scalars.json')
    lines = [json.loads(line) for line in scalars.read_text(encoding='utf-8').splitlines()]
    lines = lines[first:]
    total, waited = (sum(line[key] for line in lines) for key in ('time', 'data_time'))
    share = waited / total
    rate = batch * len(lines) / total
    return Piece(
        f'{rate:.0f} images/s with {workers} workers and {batch} pairs a step; the step '
        f'waits for data {100 * share:.1f} % of the time, steps {first + 1} to {steps}',
        passed=len(lines) == steps - first and all(line['loss'] > 0 for line in lines),
        figures={'waits for data': share, 'runner images/s': rate},
    )


def consumed_by_the_step(stage: Stage) -> float | None:
    """Images a second of the fastest step, if that stage was run before this one."""
    path = stage.out.with_name('step.json')
    if not path.is_file():
        return None
    pieces: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
    rates = [
        value
        for piece in pieces.values()
        for name, value in piece['figures'].items()
        if name.startswith('images_per_second')
    ]
    return max(rates, default=None)


def main(stage: Stage) -> None:
    torch.set_num_threads(1)
    init_default_scope('mmseg')
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / 'pairs'
        number = stage.size(2000, 48)
        make_pairs(folder, number, (80, 60) if stage.small else (500, 400), NUM_SHARDS)
        consumed = consumed_by_the_step(stage)
        stage.run('loader of tar shards', partial(loader, stage, folder, number, consumed))
        stage.run('waiting for data', partial(training_run, stage, folder, number))


if __name__ == '__main__':
    main(Stage.from_command_line())
