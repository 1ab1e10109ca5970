"""Whether the model gets its words, and the metric its classes."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric
from torch import nn
from torch.utils.data import DataLoader

from pgseg_mm.errors import PreflightError
from pgseg_mm.evaluation import ZeroShotIoUMetric

from ..hooks.vocabulary_hook import VocabularyHook, metainfo_of, takes_words
from ..models import unwrapped

IOU_METRICS = {'mIoU', 'mDice', 'mFscore'}
"""What mmseg's IoUMetric can compute; it says so at the end of an evaluation only."""
REPLACED = (
    'custom_hooks of a config replaces the list of its base, so name it there: '
    "custom_hooks=[dict(type='VocabularyHook'), ...]"
)


def check_words(model: nn.Module, hooks: list[Hook], dataset: Any, split: str) -> None:
    """Refuse an evaluation for which the model would have no words.

    Args:
        model: The model, not wrapped.
        hooks: Hooks of the Runner.
        dataset: The set under evaluation.
        split: ``'val'`` or ``'test'``.

    Raises:
        PreflightError: If nothing hands over words, or the data set has no classes, or other ones
            than the vocabulary.
    """
    hook = next((hook for hook in hooks if isinstance(hook, VocabularyHook)), None)
    if hook is None:
        if takes_words(model) and not _has_words(model):
            raise PreflightError(
                f'{type(model).__name__} needs words to be evaluated on the {split} set, and the '
                f'config has no VocabularyHook. {REPLACED}'
            )
        return
    try:
        hook.hand_over(model, dataset)
    except ValueError as error:
        raise PreflightError(f'{split} set: {error}') from error


def _has_words(model: Any) -> bool:
    return model.vocabulary is not None or bool(getattr(model, 'dataset_meta', None))


def check_metric(runner: Runner, split: str) -> None:
    """Refuse a metric that needs classes where the data set under evaluation has none.

    Args:
        runner: Runner with the evaluation loop of the split.
        split: ``'val'`` or ``'test'``.

    Raises:
        PreflightError: If there is such a metric.
    """
    evaluator = getattr(runner, f'{split}_evaluator')
    dataset = getattr(runner, f'{split}_dataloader').dataset
    classes = metainfo_of(dataset).get('classes')
    for metric in evaluator.metrics:
        wanted = metric.metrics if isinstance(metric, IoUMetric) else ()
        unknown = sorted({*([wanted] if isinstance(wanted, str) else wanted)} - IOU_METRICS)
        if unknown:
            raise PreflightError(
                f'{split}_evaluator: iou_metrics of {type(metric).__name__} has '
                f'{", ".join(map(str, unknown))}; there are {", ".join(sorted(IOU_METRICS))}'
            )
        if isinstance(metric, (IoUMetric, ZeroShotIoUMetric)) and not classes:
            raise PreflightError(
                f'{type(metric).__name__} needs the classes of the {split} set, and '
                f'{type(dataset).__name__} names none; set metainfo=dict(classes=...) in '
                f'{split}_dataloader.dataset'
            )


def check_evaluation(runner: Runner, split: str, loader: DataLoader) -> None:
    """Both of these checks.

    Args:
        runner: The runner.
        split: ``'val'`` or ``'test'``.
        loader: Loader of the set.

    Raises:
        PreflightError: If the evaluation could not be made.
    """
    check_words(unwrapped(runner.model), runner.hooks, loader.dataset, split)
    check_metric(runner, split)
