"""Evaluation names damaged files, and does without labels where there are none."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric
from mmseg.registry import HOOKS

from pgseg_mm.datasets.transforms.checked_loading import check_loading, has_labels, leave_out_labels

PREDICTIONS = 'predictions'


@HOOKS.register_module()
class CheckedLoadingHook(Hook):
    """Has validation and test name files that are damaged; see :func:`check_loading`.

    A test set without any label map is predicted only: IoU metrics write their predictions, by
    default into ``predictions`` in the work directory, and nothing is measured.
    """

    def before_val(self, runner: Runner) -> None:
        """Check the validation set."""
        _check_once(runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Check the test set, and do without its labels if it has none."""
        dataset = runner.test_dataloader.dataset
        _check_once(dataset)
        if not has_labels(dataset):
            leave_out_labels(dataset)
            _only_write(runner.test_evaluator, Path(runner.work_dir) / PREDICTIONS, runner)


def _check_once(dataset: Any) -> None:
    if not getattr(dataset, '_loading_is_checked', False):
        check_loading(dataset)
        dataset._loading_is_checked = True


def _only_write(evaluator: Evaluator, default: Path, runner: Runner) -> None:
    writers = [metric for metric in evaluator.metrics if isinstance(metric, IoUMetric)]
    for metric in writers:
        metric.format_only = True
        if metric.output_dir is None:
            metric.output_dir = str(default)
            default.mkdir(parents=True, exist_ok=True)
    evaluator.metrics = writers
    folders = ', '.join(str(metric.output_dir) for metric in writers) or 'no folder'
    runner.logger.log(
        logging.WARNING,
        'The test set has no label maps, so that nothing is measured; predictions are written to '
        f'{folders}.',
    )
