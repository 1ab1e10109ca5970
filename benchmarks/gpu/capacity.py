"""Whether a global batch of 4096 pairs fits one GPU, and by what: checkpointing, micro-batches."""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import torch

from ..timing import MIB, peak, reset_peak
from ..training_contestants import Model, Option, Settings, make_batch
from .stage import PGSEG, TINY, Piece, Stage

PAIRS, MICRO_BATCH = 4096, 256
WAYS = {
    'activation checkpointing alone': (True, False),
    'micro-batches alone': (False, True),
    'both': (True, True),
}
ROOM = 24 * 1024
"""MiB of the small GPU that the page speaks of."""
SAME_LOSS = 0.05
"""Largest relative difference of the first losses: noise is drawn in other pieces."""


def step_of(stage: Stage, checkpointing: bool, micro_batches: bool) -> dict[str, Any]:
    """Seconds and peak memory of a bf16 step, and the loss of the first one."""
    option = Option('bf16', 'bf16', fused=True, checkpointing=checkpointing)
    pairs = stage.size(PAIRS, 8)
    settings = Settings(pairs, 20, torch.get_num_threads(), stage.device, '')
    size = stage.size(MICRO_BATCH, 4) if micro_batches else None
    config = str(TINY if stage.small else PGSEG)
    options = {'model.train_cfg.micro_batch_size': size}
    model = Model(config, option, settings, cfg_options=options)
    torch.manual_seed(0)
    step = model.step(option, *make_batch(config, settings, 40 if stage.small else 77))
    device = torch.device(stage.device)
    losses, seconds = [], []
    for index in range(stage.size(2, 3)):
        if index == 1:  # the optimizer has its state
            reset_peak(device)
        stage.synchronize()
        begin = time.perf_counter()
        losses.append(float(step()))
        stage.synchronize()
        seconds.append(time.perf_counter() - begin)
    return {
        'loss': losses[0],
        'seconds': statistics.median(seconds[1:]),
        'peak_mib': peak(device) / MIB,
    }


def _step_if_it_fits(stage: Stage, checkpointing: bool, micro_batches: bool) -> dict | None:
    try:
        return step_of(stage, checkpointing, micro_batches)
    except torch.OutOfMemoryError:
        return None


def capacity(stage: Stage) -> Piece:
    """All ways, one after the other."""
    rows, figures, losses = [], {}, []
    for name, (checkpointing, micro_batches) in WAYS.items():
        row = {'4096 pairs in bf16 with': name}
        found = _step_if_it_fits(stage, checkpointing, micro_batches)
        if stage.device == 'cuda':
            torch.cuda.empty_cache()
        if found is None:
            rows.append({**row, 'fits': 'no', 'peak, GiB': '', 'seconds': '', 'in 24 GiB': 'no'})
            continue
        losses.append(found['loss'])
        rows.append(
            {
                **row,
                'fits': 'yes',
                'peak, GiB': f'{found["peak_mib"] / 1024:.1f}',
                'seconds': f'{found["seconds"]:.2f}',
                'in 24 GiB': 'yes' if found['peak_mib'] < 0.95 * ROOM else 'no',
            }
        )
        figures[f'{name} MiB'] = found['peak_mib']
        figures[f'{name} s'] = found['seconds']
    same = bool(losses) and max(losses) / min(losses) - 1 <= SAME_LOSS
    shown = ', '.join(f'{loss:.3f}' for loss in losses)
    return Piece(
        f'{len(losses)} of {len(WAYS)} fit; losses of the first step: {shown or "none"}',
        passed=same,
        rows=rows,
        figures=figures,
    )


def main(stage: Stage) -> None:
    stage.run('4096 pairs', partial(capacity, stage))


if __name__ == '__main__':
    main(Stage.from_command_line())
