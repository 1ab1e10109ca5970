from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from mmseg.registry import HOOKS

from pgseg_mm.errors import NotFiniteError, PreflightError
from pgseg_mm.files.reading import FileAccessError
from pgseg_mm.serialization.atomic_files import clear_leftovers
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.locating import locate
from pgseg_mm.serialization.runner_checkpoints import check_readable, shorten_histories
from pgseg_mm.serialization.work_folders import (
    POINTER,
    FolderInUseError,
    find_checkpoint,
    lock_folder,
    unlock_folder,
)

from ..loops import VALIDATION_DUE
from .atomic_backend import ATOMIC_BACKEND, AtomicLocalBackend, PostponedRemoval
from .finite_loss_hook import last_good_checkpoint

BEST = re.compile(r'best_[^/\\\0]+\.pth')
"""Names of best checkpoints, the only files that are removed because a checkpoint names them."""
STOPPED = re.compile(r'iter_\d+\.pth')
"""Names of the checkpoints that a run by epochs writes where it is stopped."""
OLD_LEFTOVER = re.compile(r'\.(iter|epoch|best)_.+\.pth\.[a-z0-9_]{6,8}\.pth')
"""Temporary files of earlier versions, which did not tell whose they are."""


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, for runs that may be killed at any moment.

    Checkpoints in local folders are written under another name, and renamed when they are complete.
    An outdated one is removed after that, not before. Each has the state of all ranks
    (:class:`DataStateHook`); none has parameters that are NaN or infinite, or buffers that are NaN.
    Files that a killed run has left half-written are removed when training begins, and no other run
    can use the work folder until it ends. A run that is resumed goes on from the checkpoint that
    ``last_checkpoint`` names, or from the newest that can be read if that one cannot.

    Nothing in a checkpoint is used as a path: of what it names, a ``best_*.pth`` in the run's own
    folder is removed when there is a better one, and with ``max_keep_ckpts`` the ``iter_*.pth`` of
    a stop within an epoch when the next checkpoint is there; of what it
    counts, with ``max_keep_ckpts``, the outdated checkpoints of the folder that it lies in itself;
    and nothing else ever.

    Args:
        *args: Arguments of ``CheckpointHook``.
        **kwargs: The same.

    Raises:
        CheckpointError: If a run is to be resumed, and there are checkpoints and none can be read.
        FloatingPointError: If weights are not finite.
        FolderInUseError: If another run uses the work folder.
        OSError: If a checkpoint cannot be written.
        ValueError: If gradients are accumulated and checkpoints by iterations, or those of better
            validations, fall between two updates; of those by epochs that do, the log warns.
    """

    saves_all_ranks = True
    backend_args: dict | None
    best_ckpt_path: str | None
    best_ckpt_path_dict: dict[str, str | None]
    by_epoch: bool
    file_backend: Any
    filename_tmpl: str
    max_keep_ckpts: int

    def before_run(self, runner: Runner) -> None:
        """Claim the work folder, and find the checkpoint to go on from."""
        if not isinstance(runner._train_loop, BaseLoop) or runner._has_loaded:
            return  # no training
        found: list[Any] = [runner._resume, runner._load_from]
        if is_main_process():
            try:
                lock_folder(runner.work_dir)
                if runner._resume:
                    found = list(self._choose_checkpoint(runner))
            except (CheckpointError, FolderInUseError) as error:
                found = [error, None]
        broadcast_object_list(found)
        if isinstance(found[0], Exception):
            raise found[0]
        runner._resume, runner._load_from = found

    def _choose_checkpoint(self, runner: Runner) -> tuple[bool, str | None]:
        """Whether a run that asks for it is resumed, and from where."""
        folder, begin = self._folder(runner), runner._load_from
        if type(get_file_backend(folder, backend_args=self.backend_args)) is not LocalBackend:
            return True, begin  # mmengine reads last_checkpoint
        if begin is not None and Path(begin).resolve().parent == Path(folder).resolve():
            return True, begin  # one of this run's own
        named = Path(runner.work_dir, POINTER)
        path = find_checkpoint(folder, [self.filename_tmpl], named)
        if path is not None:
            return True, str(path)
        if begin is None:
            return False, None
        try:
            check_readable(locate(begin))
        except (CheckpointError, FileNotFoundError):
            runner.logger.info(f'There is nothing to resume in {folder}: begins from {begin}.')
            return False, begin
        return True, begin

    def _folder(self, runner: Runner) -> str:
        """Where the checkpoints of a run are, before ``before_train`` puts it into ``out_dir``."""
        if self.out_dir is None or self.out_dir == runner.work_dir:
            return runner.work_dir
        return os.path.join(self.out_dir, os.path.basename(runner.work_dir.rstrip(os.sep)))

    def after_run(self, runner: Runner) -> None:
        """Leave the work folder to others."""
        unlock_folder(runner.work_dir)

    def before_train(self, runner: Runner) -> None:
        """Choose how to write, and clear up behind a killed run."""
        folder = self.out_dir or runner.work_dir
        chosen = self.file_client_args or self.backend_args
        if chosen is None and type(get_file_backend(folder)) is LocalBackend:
            self.backend_args = {'backend': ATOMIC_BACKEND}
        outdated = self._check_resumed(runner)
        super().before_train(runner)
        self._check_accumulation(runner)
        self._forget_foreign_best(runner)
        if not is_main_process():
            return
        for step in outdated:
            self._remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step)))
        if isinstance(self.file_backend, AtomicLocalBackend):
            for place in {self.out_dir, runner.work_dir}:
                if Path(place).is_dir():
                    clear_leftovers(place)
            for path in Path(runner.work_dir).glob('.*.pth'):
                if OLD_LEFTOVER.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def _check_resumed(self, runner: Runner) -> list[int]:
        """Drop what a resumed checkpoint tells and a run would not; say what is kept no longer."""
        info = runner.message_hub.runtime_info
        for key in [key for key in info if key.startswith('best_score')]:
            if isinstance(info[key], bool) or not isinstance(info[key], Real):
                runner.logger.warning(f'{key} of the checkpoint is no number and is not used.')
                del info[key]
        begin = runner._load_from
        if (
            begin is not None
            and Path(begin).resolve().parent != Path(self._folder(runner)).resolve()
        ):
            info.pop('stopped_ckpt', None)  # one of another folder, as are the numbers
            if 'keep_ckpt_ids' in info:
                info['keep_ckpt_ids'] = []
            return []
        if 'keep_ckpt_ids' not in info:
            return []
        kept = info['keep_ckpt_ids'] if isinstance(info['keep_ckpt_ids'], list) else []
        kept = [step for step in kept if type(step) is int and 0 <= step <= runner.iter]
        number = max(self.max_keep_ckpts, 0)
        info['keep_ckpt_ids'] = kept[len(kept) - min(number, len(kept)) :]
        return kept[: len(kept) - number] if number else []

    def _forget_foreign_best(self, runner: Runner) -> None:
        """Know a best checkpoint by its name in this run's own folder, and only if it is there."""
        if self.save_best is None:
            return

        def own(path: Any) -> str | None:
            if path is None:
                return None
            name = os.path.basename(path) if isinstance(path, str) else ''
            place = self.file_backend.join_path(self.out_dir, name)
            if BEST.fullmatch(name) and self.file_backend.isfile(place):
                return place
            runner.logger.warning(
                f'The best checkpoint that the resumed one names ({str(path)[:200]!r}) is not in '
                f'{self.out_dir}; it is left as it is.'
            )
            return None

        if len(self.key_indicators) == 1:
            self.best_ckpt_path = own(self.best_ckpt_path)
        else:
            paths = self.best_ckpt_path_dict
            self.best_ckpt_path_dict = {key: own(path) for key, path in paths.items()}

    def _check_accumulation(self, runner: Runner) -> None:
        counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        by_epoch = self.by_epoch and isinstance(runner.train_loop, EpochBasedTrainLoop)
        if by_epoch and self.interval > 0:
            steps = self.interval * len(runner.train_dataloader)
            if steps % counts:
                runner.logger.warning(
                    f'Checkpoints are {steps} steps apart, and gradients are accumulated over '
                    f'{counts}: a run that is resumed lacks those of the last {steps % counts}.'
                )
        if self.by_epoch:
            return
        places = [('interval', self.interval), ('save_begin', self.save_begin)]
        if self.save_best and runner.val_loop is not None:  # a better validation writes one
            loop = runner.train_loop
            of_epoch = isinstance(loop, EpochBasedTrainLoop)
            length = len(runner.train_dataloader) if of_epoch else 1
            intervals = getattr(loop, 'dynamic_intervals', None) or [loop.val_interval]
            places += [('train_cfg.val_interval', length * interval) for interval in intervals]
        for name, steps in places:
            if steps > 0 and steps % counts:
                raise PreflightError(
                    f'checkpoints by {name}, {steps} iterations, would lose gradients that are '
                    f'accumulated over {counts}; set it to a multiple of {counts} iterations'
                )

    def _save_checkpoint(self, runner: Runner) -> None:
        """Save, and have the checkpoint know whether its validation is behind it: best scores are
        of that, and a run that is killed before the next checkpoint makes up for it.
        """
        loop = runner.train_loop
        due = getattr(loop, 'is_validation_due', None)
        step = (runner.epoch if self.by_epoch else runner.iter) + 1
        fits = isinstance(loop, EpochBasedTrainLoop) == self.by_epoch
        if due is not None and fits and due(step):
            number = runner.iter + (not self.by_epoch)
            runner.message_hub.update_info(VALIDATION_DUE, number)
        super()._save_checkpoint(runner)
        runner.message_hub.runtime_info.pop(VALIDATION_DUE, None)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        runner.call_hook('gather_for_checkpoint')
        check_finite_weights(runner, meta['iter'])
        outdated = [self._keep(runner, step), self._forget_stop(runner) if self.by_epoch else None]
        name = self.filename_tmpl.format(step)
        path = self.file_backend.join_path(self.out_dir, name)
        with self._naming(runner, path):
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
        self.last_ckpt = path
        if is_main_process():
            AtomicLocalBackend().put_text(self._pointer(name, path), Path(runner.work_dir, POINTER))
            for old in outdated:
                if old is not None and old != path:
                    self._remove(old)

    @contextmanager
    def _naming(self, runner: Runner, path: str, known: bool = True) -> Iterator[None]:
        """Name a checkpoint that the system cannot write, and have it be known as the last one."""
        info = runner.message_hub.runtime_info
        before = info.get('last_ckpt')
        if known:
            runner.message_hub.update_info('last_ckpt', path)
        try:
            yield
        except OSError as error:
            info.pop('last_ckpt', None)
            if before is not None:
                info['last_ckpt'] = before
            raise FileAccessError(
                f'The checkpoint {path} cannot be written: {error.strerror or error}. '
                f'{last_good_checkpoint(runner)}'
            ) from error

    def _forget_stop(self, runner: Runner) -> str | None:
        """The checkpoint of an earlier stop, if it is to go when the next one is there."""
        name = runner.message_hub.runtime_info.pop('stopped_ckpt', None)
        if self.max_keep_ckpts <= 0 or not (isinstance(name, str) and STOPPED.fullmatch(name)):
            return None
        return self.file_backend.join_path(self.out_dir, name)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the checkpoints of very long runs readable."""
        left = shorten_histories(checkpoint)
        if left is not None:
            runner.logger.info(f'The checkpoint has the last {left} values of each that is logged.')

    def _pointer(self, name: str, path: str) -> str:
        """What ``last_checkpoint`` holds: a name alone, so that the folder can be moved."""
        backend = getattr(self.file_backend, 'backend', self.file_backend)  # of a PostponedRemoval
        return name if isinstance(backend, LocalBackend) else path

    def save_now(self, runner: Runner, step: int) -> None:
        """Write a checkpoint between two others, and have it named as the newest.

        Args:
            runner: The runner.
            step: Iterations that are behind it.
        """
        before = self.by_epoch, self.filename_tmpl, self.max_keep_ckpts
        earlier = None
        if self.by_epoch:  # not one of those that are counted
            earlier = self._forget_stop(runner)
            runner.message_hub.update_info('stopped_ckpt', f'iter_{step}.pth')
            self.by_epoch, self.filename_tmpl, self.max_keep_ckpts = False, 'iter_{}.pth', -1
        try:
            self._save_checkpoint_with_step(
                runner, step, meta={'epoch': runner.epoch, 'iter': step}
            )
        finally:
            self.by_epoch, self.filename_tmpl, self.max_keep_ckpts = before
        if earlier is not None and earlier != self.last_ckpt and is_main_process():
            self._remove(earlier)

    def _keep(self, runner: Runner, step: int) -> str | None:
        """Note that a checkpoint is kept, and say which one no longer is."""
        if self.max_keep_ckpts <= 0 or (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            return None
        full = len(self.keep_ckpt_ids) == self.max_keep_ckpts
        outdated = self.keep_ckpt_ids.popleft() if full else None
        self.keep_ckpt_ids.append(step)
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        if outdated is None:
            return None
        return self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(outdated))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        if not self.save_best:
            return
        runner.call_hook('gather_for_checkpoint')
        check_finite_weights(runner, runner.iter)
        # mmengine would remove the best one so far before it has written the better one
        backend = self.file_backend
        self.file_backend = postponing = PostponedRemoval(backend)
        try:
            with self._naming(runner, f'{self.out_dir}/best_*.pth', known=False):
                super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        # the best one of runs that do not count epochs is written over the best one before
        several = getattr(self, 'best_ckpt_path_dict', {})  # there with more than one figure
        best = {getattr(self, 'best_ckpt_path', None), *several.values()}
        for path in postponing.removed:
            if path not in best:
                self._remove(path)

    def _remove(self, path: str) -> None:
        own = os.path.dirname(path) == str(self.out_dir).rstrip('/')
        if own and path.endswith('.pth') and self.file_backend.isfile(path):
            self.file_backend.remove(path)


def check_finite_weights(runner: Runner, done: int) -> None:
    """Refuse weights that should not be kept.

    Args:
        runner: The runner.
        done: Iterations that are behind it.

    Raises:
        FloatingPointError: If a parameter is NaN or infinite, or a buffer is NaN.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    bad = [name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    # masks may be infinite
    bad += [name for name, b in model.named_buffers() if bool(torch.isnan(b).any())]
    if bad:
        raise NotFiniteError(
            f'after step {done} {len(bad)} weights are NaN or infinite, such as '
            f'{bad[0]}; no checkpoint is written of them. {last_good_checkpoint(runner)}'
        )
