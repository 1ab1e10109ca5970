"""Training loops that begin behind what a resumed run has been trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmseg.registry import LOOPS
from torch import nn
from torch.utils.data import DataLoader

VALIDATION_DUE = 'validation_due'
"""Key of the message hub: the iteration whose validation comes behind its checkpoint, so that a run
that was stopped or killed may not have come to it."""


def _make_up_for_validation(runner: Runner, iteration: int) -> None:
    """Validate if the run goes on from a checkpoint that its validation had yet to follow."""
    due = runner.message_hub.runtime_info.pop(VALIDATION_DUE, None)
    if due == iteration and runner.val_loop is not None:
        runner.val_loop.run()


class _Unstarted:
    """A loader whose workers start with the first batch, not with the iterator."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.dataset = loader.dataset

    def __iter__(self) -> Iterator[Any]:
        yield from self.loader


@LOOPS.register_module()
class ResumableIterLoop(IterBasedTrainLoop):
    """mmengine's ``IterBasedTrainLoop``, which leaves it to the sampler where to begin.

    That loop loads and drops all batches that a resumed run has been trained on (OpenMMLab's
    distribution), and starts its workers before a checkpoint is loaded. Here
    :class:`DataStateHook` moves the sampler, and workers start with the first batch.

    Args:
        runner: The runner.
        dataloader: Data loader or its config; its sampler must not end, as a
            :class:`ResumableSampler` with ``infinite=True``.
        max_iters: Iterations to train.
        **kwargs: ``val_begin``, ``val_interval`` and ``dynamic_intervals`` of the loop above.
    """

    def __init__(
        self, runner: Runner, dataloader: DataLoader | dict, max_iters: int, **kwargs: Any
    ) -> None:
        different = runner._randomness_cfg.get('diff_rank_seed', False)
        loader = runner.build_dataloader(dataloader, runner.seed, different)
        super().__init__(runner, _Unstarted(loader), max_iters, **kwargs)
        self.dataloader = loader

    def run(self) -> nn.Module:
        """Launch training.

        Raises:
            RuntimeError: If the sampler comes to an end before the training does.
        """
        self.runner.call_hook('before_train')
        # the whole training is one epoch to the hooks
        self.runner.call_hook('before_train_epoch')
        _make_up_for_validation(self.runner, self._iter)
        batches = iter(self.dataloader)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(self._next(batches))
            self._decide_current_val_interval()
            if self.is_validation_due(self._iter):
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches)
        except StopIteration:
            raise RuntimeError(
                f'the samples came to an end after {self._iter} of {self._max_iters} iterations; '
                'this loop needs a sampler without end: ResumableSampler with infinite=True'
            ) from None

    def is_validation_due(self, step: int) -> bool:
        """Whether there is a validation behind a step."""
        if self.runner.val_loop is None or step < self.val_begin:
            return False
        return step % self.val_interval == 0 or step == self._max_iters


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's ``EpochBasedTrainLoop``, which counts on within the epoch after resuming.

    The samples are the same in both; this one numbers the batches of a resumed epoch as the
    interrupted run would have, so that logs name them rightly, and validates first if the resumed
    checkpoint was written before its validation.
    """

    def run(self) -> nn.Module:
        """Launch training."""
        self.runner.call_hook('before_train')
        _make_up_for_validation(self.runner, self._iter)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            if self.is_validation_due(self._epoch):
                self.runner.val_loop.run()
        self.runner.call_hook('after_train')
        return self.runner.model

    def is_validation_due(self, epoch: int) -> bool:
        """Whether there is a validation behind an epoch, counted from 1."""
        if self.runner.val_loop is None or epoch < self.val_begin:
            return False
        return epoch % self.val_interval == 0 or epoch == self._max_epochs

    def run_epoch(self) -> None:
        """Iterate over one epoch, or over what is left of it."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        skipped = getattr(self.dataloader.sampler, 'num_skipped', 0)
        # a sampler of batches has no batch size, and skips nothing
        first = skipped // (self.dataloader.batch_size or 1)
        for index, data_batch in enumerate(self.dataloader, first):
            self.run_iter(index, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
