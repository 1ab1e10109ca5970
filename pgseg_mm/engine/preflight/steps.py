"""Whether a training has steps, and none with a batch that batch norm refuses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from pgseg_mm.datasets import WebImageTextDataset
from pgseg_mm.datasets.pairs.shard_stream import check_shards
from pgseg_mm.datasets.transforms.checked_loading import listed_files, loads_labels
from pgseg_mm.errors import PreflightError
from pgseg_mm.evaluation import ZeroShotIoUMetric
from pgseg_mm.messages import described, shown
from pgseg_mm.models.layers import ProjectionMLP, SyncBatchNorm
from pgseg_mm.models.losses import NPRLoss

POOLED = (1, (1, 1), [1, 1])
"""Output sizes of a pooling that leaves one value for each channel."""


def is_endless(loader: Any) -> bool:
    """Whether the batches of a loader never come to an end."""
    sampler = loader.sampler
    return getattr(sampler, 'infinite', False) or isinstance(sampler, InfiniteSampler)


def samples_of_rank(loader: Any) -> int:
    """Samples of an epoch on this rank."""
    return len(loader.sampler)


def describe_loader(loader: Any, split: str = 'train') -> str:
    """How much there is to read, in words."""
    ranks = get_world_size()
    samples = len(loader.dataset)
    among = '' if ranks == 1 else f', dealt out to {ranks} ranks ({samples_of_rank(loader)} each)'
    return (
        f'the {split} set has {samples} samples{among}, and the batch is {loader.batch_size} '
        f'with drop_last={loader.drop_last}'
    )


def check_steps(loader: Any) -> None:
    """Refuse a training set from which no batch can be made.

    Args:
        loader: Loader of the training set.

    Raises:
        PreflightError: If an epoch would have no step.
    """
    if len(loader.dataset) == 0:
        raise PreflightError(
            'the training set has no samples: look at ann_file, data_root and data_prefix of '
            "train_dataloader.dataset, and at the log's counts of what was left out"
        )
    if loader.batch_sampler is None or is_endless(loader) or len(loader) > 0:
        return
    each = samples_of_rank(loader)
    ranks = '' if get_world_size() == 1 else ', use fewer ranks'
    raise PreflightError(
        f'an epoch would have no step: {describe_loader(loader)}. Set '
        f'train_dataloader.batch_size to {max(each, 1)} or less{ranks}, give more data, or set '
        'drop_last=False'
    )


def check_length(train_cfg: Mapping[str, Any] | None) -> None:
    """Refuse a training of no epochs or iterations.

    Args:
        train_cfg: Config of the training loop.

    Raises:
        PreflightError: If ``max_epochs`` or ``max_iters`` is below 1, or one of them or
            ``val_interval`` is no number, or the latter is 0.
    """
    for name in ('max_epochs', 'max_iters', 'val_interval'):
        number = (train_cfg or {}).get(name)
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise PreflightError(f'train_cfg.{name} must be a number, got {described(number)}')
        if name == 'val_interval':
            if number == 0:
                raise PreflightError(
                    'train_cfg.val_interval is 0; set it to 1 or more, or val_dataloader=None, '
                    'val_cfg=None and val_evaluator=None for a training without validation'
                )
        elif number < 1:
            raise PreflightError(
                f'train_cfg.{name} is {number}: nothing would be trained; set it to 1 or more'
            )


def is_left(runner: Runner) -> bool:
    """Whether a run has steps before it; a warning says so of one that was resumed at its end.

    Args:
        runner: The runner of a training, with its checkpoint loaded.
    """
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    done = runner.epoch if by_epoch else runner.iter
    asked = runner.max_epochs if by_epoch else runner.max_iters
    if done == 0 or done < asked:
        return True
    unit, name = ('epochs', 'max_epochs') if by_epoch else ('iterations', 'max_iters')
    runner.logger.warning(
        f'Nothing is left to train: the run has {done} {unit} behind it, and train_cfg.{name} is '
        f'{asked}; raise it to go on.'
    )
    return False


def check_readers(loader: Any) -> None:
    """Refuse more readers than a stream has shards, in the words of :func:`check_shards`.

    Args:
        loader: Loader of the training set.

    Raises:
        PreflightError: If a source has fewer shards than there are processes times workers.
    """
    if not isinstance(loader.dataset, WebImageTextDataset):
        return
    for source in loader.dataset.sources:
        try:
            check_shards(source, get_world_size() * max(loader.num_workers, 1))
        except ValueError as error:
            raise PreflightError(str(error)) from error


def check_npr_begin(loop: Any, model: nn.Module) -> None:
    """Refuse an NPR loss that waits for an epoch in a loop that counts none.

    Args:
        loop: The loop of the training.
        model: The model, not wrapped.

    Raises:
        PreflightError: If there is one.
    """
    if isinstance(loop, EpochBasedTrainLoop):
        return
    for name, module in model.named_modules():
        if isinstance(module, NPRLoss) and module.by_epoch and module.begin + module.ramp > 0:
            raise PreflightError(
                f'{name} begins at epoch {module.begin}, but {type(loop).__name__} counts '
                'iterations alone, so that it never would; set by_epoch=False, and begin and ramp '
                'in iterations'
            )


def check_waits_for_epochs(runner: Runner) -> None:
    """Refuse schedules that wait for an epoch in a loop that counts none; warn of checkpoints.

    Args:
        runner: The runner of a training.

    Raises:
        PreflightError: If there is a schedule.
    """
    loop = runner.train_loop
    if isinstance(loop, EpochBasedTrainLoop):
        return
    why = f'but {type(loop).__name__} counts iterations alone'
    schedules = runner.param_schedulers
    for schedule in schedules if isinstance(schedules, list) else []:
        # those that follow a metric change behind validations
        if schedule.by_epoch and not hasattr(schedule, 'monitor'):
            raise PreflightError(
                f'{type(schedule).__name__} of param_scheduler changes the rate by the epoch, '
                f'{why}, so that it never would; set by_epoch=False, and begin and end in '
                'iterations'
            )
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.by_epoch and hook.interval > 0:
            runner.logger.warning(
                f'{type(hook).__name__} saves by the epoch, {why}: there is no checkpoint before '
                'the end; set by_epoch=False, and interval in iterations'
            )


def smallest_batch(loader: Any) -> int:
    """Samples of the smallest batch of a rank; 0 if there is none."""
    full = loader.batch_size or 0
    if is_endless(loader) or loader.drop_last:
        return full
    return samples_of_rank(loader) % max(full, 1) or full


def norm_of_single_values(model: nn.Module) -> str | None:
    """Name of a batch norm which, for a batch of one, has one value for each channel.

    That is the norm of whole images and texts: in a :class:`ProjectionMLP`, in a neck or head of
    mmpretrain, and behind a pooling to 1 x 1 pixels. Other norms see many pixels or tokens. Norms
    whose statistics span all ranks are none where there are several, nor are frozen ones.

    Args:
        model: The model, in training mode.
    """
    for name, module in model.named_modules():
        pooled = (
            isinstance(module, nn.Sequential)
            and len(module) > 0
            and isinstance(module[0], nn.AdaptiveAvgPool2d)
            and module[0].output_size in POOLED
        )
        whole = isinstance(module, ProjectionMLP) or name in ('neck', 'head')
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm) if pooled else nn.BatchNorm1d
        for inner, part in module.named_modules() if pooled or whole else ():
            spans = get_world_size() > 1 and isinstance(part, (SyncBatchNorm, nn.SyncBatchNorm))
            if isinstance(part, kinds) and part.training and not spans:
                return f'{name}.{inner}'
    return None


def check_batches(loader: Any, model: nn.Module) -> None:
    """Refuse a batch of one, or a last batch of one, that batch norm cannot take.

    Args:
        loader: Loader of the training set.
        model: The model, not wrapped.

    Raises:
        PreflightError: If there is such a batch and such a norm.
    """
    if loader.batch_sampler is None or smallest_batch(loader) != 1:
        return
    model.train()
    norm = norm_of_single_values(model)
    if norm is None:
        return
    which = 'every batch' if loader.batch_size == 1 else 'the last batch of an epoch'
    advice = (
        'set batch_size to 2 or more'
        if loader.batch_size == 1
        else 'set train_dataloader.drop_last=True or another batch_size'
    )
    raise PreflightError(
        f'{which} would have one sample, of which batch norm ({norm}) cannot take statistics: '
        f'{describe_loader(loader)}; {advice}'
    )


def check_evaluated(loader: Any, split: str) -> None:
    """Refuse a validation or test set that has no images, or lacks some that it lists.

    Args:
        loader: Loader of the set.
        split: ``'val'`` or ``'test'``.

    Raises:
        PreflightError: If there is no image, or a file that the set lists is not there.
    """
    if len(loader.dataset) == 0:
        raise PreflightError(
            f'the {split} set has no samples: look at data_root, data_prefix, img_suffix and '
            f'ann_file of {split}_dataloader.dataset'
        )
    # a test may do without labels
    labels = split == 'val' and loads_labels(loader.dataset)
    keys = ('img_path', 'seg_map_path') if labels else ('img_path',)
    listed = [path for key in keys for path in listed_files(loader.dataset, key)]
    absent = [path for path in listed if '://' not in path and not os.path.exists(path)]
    if absent:
        raise PreflightError(
            f'{len(absent)} of the {len(listed)} files that the {split} set lists do not exist, '
            f'such as {shown(absent[0])}'
        )


def check_outputs(evaluator: Any, loader: Any) -> None:
    """Refuse predictions of two images in one file, which ranks would not notice.

    Args:
        evaluator: The evaluator.
        loader: Loader of the set.

    Raises:
        PreflightError: If there are two.
    """
    for metric in getattr(evaluator, 'metrics', ()):
        if isinstance(metric, ZeroShotIoUMetric) and metric.output_dir:
            try:
                metric.check_outputs(listed_files(loader.dataset, 'img_path'))
            except ValueError as error:
                raise PreflightError(str(error)) from error
