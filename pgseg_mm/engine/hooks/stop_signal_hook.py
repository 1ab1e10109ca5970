from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import EarlyStoppingHook, Hook, ParamSchedulerHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmseg.registry import HOOKS

from pgseg_mm.integration import (
    end_by_signal,
    give_back_signals,
    outlive_signals,
    take_signals,
)

from ..loops import VALIDATION_DUE
from .safe_checkpoint_hook import SafeCheckpointHook

REPEAT_SECONDS = 1.0
"""A launcher passes on what the terminal sends to its processes as well: that is one signal."""


@HOOKS.register_module()
class StopSignalHook(Hook):
    """Ends the run with a checkpoint when it is told to end.

    Slurm, cloud machines and ``kill`` send SIGTERM, and Ctrl-C sends SIGINT. The running step is
    finished, a checkpoint is written that ``--resume`` goes on from as if nothing had happened, and
    the process ends with 128 + the number of the signal: 143 or 130. With several ranks, all of
    them end behind the same step, whichever got the signal. A second signal ends a process at once.

    A validation is broken off, and made up for by the resumed run (:class:`ResumableIterLoop`);
    that of a run of several ranks is finished first. Without a :class:`SafeCheckpointHook`, or
    outside of the main thread, signals do what they did before, and a warning says so.

    Args:
        signals: Names of the signals.

    Raises:
        SystemExit: The run was told to end.
        ValueError: There is no such signal.
    """

    # behind everything that a step changes
    priority = 'LOWEST'

    def __init__(self, signals: Sequence[str] = ('SIGTERM', 'SIGINT')) -> None:
        unknown = [name for name in signals if name not in signal.Signals.__members__]
        if unknown:
            raise ValueError(f'signals must be names such as SIGTERM, got {", ".join(unknown)}')
        self.signals = [signal.Signals[name] for name in signals]
        self.received = 0
        """Number of the signal that this process got; 0 if there was none."""
        self._previous: dict[signal.Signals, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Begin to listen."""
        if self._checkpoints(runner) is None:
            runner.logger.warning(
                'Signals end this run at once, without a checkpoint; that takes '
                "default_hooks=dict(checkpoint=dict(type='SafeCheckpointHook', ...))."
            )
            return
        if threading.current_thread() is not threading.main_thread():
            runner.logger.warning('Signals end this run at once: it is not in the main thread.')
            return
        self.received = 0
        listener = _Listener(self._note)
        self._previous = take_signals(self.signals, listener)
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None:
                loader = loop.dataloader
                loader.worker_init_fn = partial(_begin_worker, loader.worker_init_fn, os.getpid())

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """End behind this step if a rank was told to."""
        if not self._previous:
            return
        received = self._agree()
        step = runner.iter + 1
        if received and _is_update(runner, step):
            loop = runner.train_loop
            # behind an epoch's last step, the resumed run comes to the validation by itself
            by_step = not isinstance(loop, EpochBasedTrainLoop)
            due = getattr(loop, 'is_validation_due', None) if by_step else None
            self._stop(runner, received, step, due is not None and due(step))

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Break a validation off."""
        alone = self._previous and get_world_size() == 1
        if self.received and alone and _is_update(runner, runner.iter):
            # hooks undo what they did for it, such as the averaged weights in the model's place;
            # those that decide by a figure have none
            for hook in list(runner.hooks):
                if not isinstance(hook, (ParamSchedulerHook, EarlyStoppingHook)):
                    hook.after_val_epoch(runner, metrics={})

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """End behind a validation if a rank was told to."""
        if not self._previous:
            return  # of no training
        received = self._agree()
        if received and _is_update(runner, runner.iter):
            self._stop(runner, received, runner.iter, not metrics)

    def after_train(self, runner: Runner) -> None:
        """Leave signals to others."""
        give_back_signals(self._previous)
        self._previous.clear()

    def _note(self, number: int) -> None:
        self.received = number
        # logging is not safe here
        name = signal.Signals(number).name
        os.write(2, f'\n{name}: ending behind the running step, with a checkpoint\n'.encode())

    def _agree(self) -> int:
        if get_world_size() == 1:
            return self.received
        highest = torch.tensor(self.received, device=get_device())
        all_reduce(highest, 'max')
        return int(highest)

    def _stop(self, runner: Runner, received: int, step: int, validation_due: bool) -> None:
        hook = self._checkpoints(runner)
        assert hook is not None
        if validation_due:
            runner.message_hub.update_info(VALIDATION_DUE, step)
        saved = hook.last_ckpt  # by this run; the message hub may have it from another folder
        is_saved = saved is not None and os.path.basename(saved) == f'iter_{step}.pth'
        if validation_due or not is_saved:
            hook.save_now(runner, step)
        name = signal.Signals(received).name
        runner.logger.warning(
            f'The run ends because of {name} behind step {step}; --resume goes on from '
            f'{hook.last_ckpt}.'
        )
        self.after_train(runner)
        runner.call_hook('after_run')
        raise SystemExit(128 + received)

    @staticmethod
    def _checkpoints(runner: Runner) -> SafeCheckpointHook | None:
        return next((hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)), None)


def _is_update(runner: Runner, step: int) -> bool:
    """Whether the optimizer moved behind a step: elsewhere a checkpoint would lose gradients."""
    return step % getattr(runner.optim_wrapper, '_accumulative_counts', 1) == 0


class _Listener:
    """Handles signals: notes the first one, and lets the next one end the process.

    Args:
        note: Called with the number of the first one.
    """

    def __init__(self, note: Callable[[int], None]) -> None:
        self._note, self._process = note, os.getpid()
        self._first = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # forked processes wait for their parent
        now = time.monotonic()
        if not self._first:
            self._first = now
            self._note(number)
        elif now - self._first >= REPEAT_SECONDS:
            end_by_signal(number)


def _begin_worker(initialize: Callable[[int], Any] | None, owner: int, worker: int) -> None:
    """Let a worker of a data loader live until its owner ends it, however it was started."""
    outlive_signals(owner)
    if initialize is not None:
        initialize(worker)
