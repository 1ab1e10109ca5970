"""Where a training step waits for the GPU."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .runs import write_scenes_config
from .stage import Piece, Stage

WAITS = {
    ('models/data_preprocessor.py', None): 'the batch is copied to the device',
    ('base_model/data_preprocessor.py', None): 'the batch is copied to the device',
    ('logging/message_hub.py', None): 'losses are logged (RuntimeInfoHook)',
    ('optimizer/optimizer_wrapper.py', '_clip_grad'): "the gradient's norm is logged",
    ('hooks/finite_loss_hook.py', '_to_float'): 'the loss is looked at',
    ('device/utils.py', 'get_max_cuda_memory'): 'the log tells the memory, at its interval',
    ('amp/grad_scaler.py', None): 'the gradient scaler looks for an overflow (fp16)',
}
"""Where a training step may wait for the GPU: end of a file's path, function, and why.

Matching waits in threads of its own (pgseg_mm/models/losses/matching.py) and for those threads.
"""


class WatchHook(Hook):
    """Notes where training steps wait for the GPU, from the second one on."""

    priority = 'LOWEST'

    def __init__(self, device: str) -> None:
        self.device = device
        self.places: Counter[tuple[str, str]] = Counter()
        self.steps = 0

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        self.steps += runner.iter > 0
        if self.device == 'cuda':
            torch.cuda.set_sync_debug_mode('warn')

    def note(self, message: Warning | str, *args: Any, **kwargs: Any) -> None:
        """Stands in for :func:`warnings.showwarning`."""
        if 'called a synchronizing' in str(message):
            self.places[place_of(traceback.extract_stack()[:-1])] += 1


def place_of(stack: traceback.StackSummary) -> tuple[str, str]:
    """The named place of a wait, or the innermost line outside torch; and why it waits, or ''."""
    for frame in reversed(stack):
        for (end, function), why in WAITS.items():
            if frame.filename.endswith(end) and function in (None, frame.name):
                return f'{end}: {frame.name}', why
    outside = [f for f in stack if '/torch/' not in f.filename and f.filename != warnings.__file__]
    last = (outside or list(stack))[-1]
    return f'{"/".join(Path(last.filename).parts[-3:])}:{last.lineno} in {last.name}', ''


def waits(stage: Stage, folder: Path, wrapper: str, **precision: Any) -> Piece:
    """Where a training step of the Runner waits for the GPU."""
    if stage.device == 'cpu':
        wrapper, precision = 'OptimWrapper', {}
    sys.path.append(str(folder))  # the config imports a module from there
    cfg = Config.fromfile(write_scenes_config(folder, wrapper, **precision))
    cfg.work_dir = str(folder / 'work')
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    cfg.custom_hooks = []
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1000, save_last=False)
    cfg.train_cfg = dict(type='ResumableIterLoop', max_iters=8)
    cfg.log_level = 'WARNING'
    watch = WatchHook(stage.device)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(watch)
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        warnings.showwarning = watch.note
        try:
            runner.train()
        finally:
            if stage.device == 'cuda':
                torch.cuda.set_sync_debug_mode('default')
    if stage.device == 'cpu':
        return Piece(f'on the CPU nothing waits; {watch.steps + 1} steps taken', passed=None)
    rows = [
        {'place': place, 'times a step': f'{count / watch.steps:.1f}', 'why': why or 'NOT NAMED'}
        for (place, why), count in watch.places.most_common()
    ]
    unnamed = [place for place, why in watch.places if not why]
    return Piece(
        f'{sum(watch.places.values()) / watch.steps:.1f} waits a step at {len(rows)} places'
        + (f'; not named: {", ".join(unnamed)}' if unnamed else ', all of them named'),
        passed=bool(rows) and not unnamed,
        rows=rows,
    )
