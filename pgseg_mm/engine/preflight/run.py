"""All checks of a training, and of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from pgseg_mm.cli.folders import check_space, check_writable
from pgseg_mm.errors import PreflightError

from ..models import unwrapped
from .building import telling
from .pretrained import check_pretrained
from .steps import (
    check_batches,
    check_evaluated,
    check_length,
    check_npr_begin,
    check_outputs,
    check_readers,
    check_steps,
    check_waits_for_epochs,
)
from .words import check_evaluation

EMPTY = 'need at least one array to concatenate'
"""What NumPy says when mmengine packs the annotations of no sample."""
NO_SAMPLES = (
    '{} has no samples: look at data_root, data_prefix, ann_file and the suffixes of its files in '
    'the config'
)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what a data set, sampler, metric or loop complains of into the refusal of the run."""
    with telling(f'{what} cannot be built'):
        try:
            yield
        except PreflightError:
            raise
        except (OSError, ValueError) as error:
            if EMPTY in str(error):
                raise PreflightError(NO_SAMPLES.format(what)) from error
            raise PreflightError(f'{what} cannot be read: {error}') from error


def build_loops(runner: Runner) -> None:
    """Build the loops of a training, and refuse one without steps.

    The Runner builds schedules before it calls a hook, and those fail in other words when an epoch
    has no step.

    Args:
        runner: The runner, before it trains.

    Raises:
        PreflightError: If the data cannot be read, or there would be no step.
    """
    check_length(runner.cfg.get('train_cfg'))
    with _told('the training set'):
        loop = runner.train_loop
    if loop is not None:
        check_steps(runner.train_dataloader)
    with _told('the validation set'):
        runner.val_loop  # noqa: B018, builds it


def build_test_loop(runner: Runner) -> None:
    """Build the loop of a test, whose data set may complain.

    Args:
        runner: The runner, before it tests.

    Raises:
        PreflightError: If the data cannot be read.
    """
    with _told('the test set'):
        runner.test_loop  # noqa: B018, builds it


def before_train(runner: Runner) -> None:
    """Refuse a training that would do nothing, or fail later for what is known now.

    Args:
        runner: The runner; its loops are built if need be.

    Raises:
        PreflightError: If something is wrong.
    """
    build_loops(runner)
    model = unwrapped(runner.model)
    loader = runner.train_dataloader
    check_readers(loader)
    check_batches(loader, model)
    check_npr_begin(runner.train_loop, model)
    check_waits_for_epochs(runner)
    check_pretrained(model)
    if runner.val_loop is not None:
        check_evaluated(runner.val_dataloader, 'val')
        check_evaluation(runner, 'val', runner.val_dataloader)
    check_writable(runner.work_dir, 'work_dir')
    for hook in runner.hooks:
        folder = getattr(hook, 'out_dir', None) if isinstance(hook, CheckpointHook) else None
        # before its before_train, a hook has the folder that the config names, or none
        if folder is not None and '://' not in str(folder):
            check_writable(folder, 'out_dir of the checkpoints')
        if isinstance(hook, CheckpointHook) and '://' not in str(folder):
            check_space(Path(folder or runner.work_dir), model)


def before_test(runner: Runner, split: str = 'test') -> None:
    """Refuse an evaluation that would measure nothing, or fail for what is known now.

    Args:
        runner: The runner, whose loop is built.
        split: ``'test'`` or ``'val'``.

    Raises:
        PreflightError: If something is wrong.
    """
    loader = getattr(runner, f'{split}_dataloader')
    check_evaluated(loader, split)
    check_outputs(getattr(runner, f'{split}_evaluator'), loader)
    check_evaluation(runner, split, loader)
