"""One image through the validation of a training, before the training starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook
from mmengine.logging import MMLogger
from mmengine.runner import Runner, ValLoop, autocast
from mmseg.evaluation import IoUMetric
from torch.utils.data import IterableDataset

from pgseg_mm.datasets.sampling.random_state import seeded
from pgseg_mm.errors import PreflightError
from pgseg_mm.integration import silenced

from .building import telling

SPECIAL = ('auto', None)
"""Values of ``save_best`` that name no metric."""


def rehearse_validation(runner: Runner) -> None:
    """Predict and measure the first image of the validation set, and forget it.

    So a metric that does not fit the model, a key of ``save_best`` that no metric gives, or a step
    of the pipeline that fails is found before the first step, not at the first validation. Random
    numbers of the training stay as they are. Loops of other kinds than mmengine's are left out, as
    are streams.

    Args:
        runner: The runner of a training, with its weights loaded.

    Raises:
        PreflightError: If it fails.
    """
    loop: Any = runner.val_loop
    if not isinstance(loop, ValLoop) or type(loop).run_iter is not ValLoop.run_iter:
        return
    if not isinstance(loop.evaluator, Evaluator):
        return
    dataset = loop.dataloader.dataset
    if isinstance(dataset, IterableDataset):
        return
    with (
        seeded(0),
        _evaluating(runner, loop.evaluator.metrics),
        telling('the validation would fail at its first image'),
    ):
        batch = loop.dataloader.collate_fn([dataset[0]])
        with autocast(enabled=loop.fp16):
            outputs = runner.model.val_step(batch)
        loop.evaluator.process(data_samples=outputs, data_batch=batch)
        keys = _measured(loop.evaluator.metrics)
    if keys is not None:
        _check_save_best(runner, keys)


@contextmanager
def _evaluating(runner: Runner, metrics: list[Any]) -> Iterator[None]:
    """The model in evaluation, metrics without what they collect, and no word of a figure."""
    training = runner.model.training
    runner.model.eval()
    try:
        with torch.no_grad(), silenced(MMLogger.get_current_instance()):
            yield
    finally:
        runner.model.train(training)
        for metric in metrics:
            metric.results.clear()


def _measured(metrics: list[Any]) -> set[str] | None:
    """Names of what is measured; ``None`` if a metric is of a kind that may need more images."""
    keys: set[str] = set()
    for metric in metrics:
        if not isinstance(metric, IoUMetric):
            return None
        names = metric.compute_metrics(metric.results)
        keys |= {f'{metric.prefix}/{name}' if metric.prefix else name for name in names}
    return keys


def _check_save_best(runner: Runner, keys: set[str]) -> None:
    for hook in runner.hooks:
        if not isinstance(hook, CheckpointHook) or not hook.save_best:
            continue
        wanted = [key for key in hook.key_indicators or [] if key not in SPECIAL]
        if absent := [key for key in wanted if key not in keys]:
            raise PreflightError(
                f'save_best of the checkpoints names {", ".join(absent)}, which no metric of the '
                f'validation gives; they give {", ".join(sorted(keys))}'
            )
