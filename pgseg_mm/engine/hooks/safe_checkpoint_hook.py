from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.fileio import BaseStorageBackend, LocalBackend, get_file_backend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from pgseg_mm.utils.loading import write_atomically

from .finite_loss_hook import last_good_checkpoint

ATOMIC_BACKEND = 'pgseg_atomic_local'


class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, but a file is either the old one or the new one, never a part."""

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write bytes to a file."""
        write_atomically(filepath, lambda path: _write_synced(path, obj))

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text to a file."""
        self.put(obj.encode(encoding), filepath)


def _write_synced(path: Path, content: bytes | memoryview) -> None:
    with path.open('wb') as file:
        file.write(content)
        file.flush()
        # else a machine that loses its power could keep the new name and not the content
        os.fsync(file.fileno())


class _PostponedRemoval:
    """A backend that only notes which files it should have removed."""

    def __init__(self, backend: BaseStorageBackend) -> None:
        self.backend = backend
        self.removed: list[str] = []

    def remove(self, path: str) -> None:
        self.removed.append(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)


register_backend(ATOMIC_BACKEND, AtomicLocalBackend, force=True)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, for runs that may be killed at any moment.

    Checkpoints in local folders are written under another name, and renamed when they are complete.
    An outdated one is removed after that, not before. Each has the state of all ranks
    (:class:`DataStateHook`), and none has weights that are NaN or infinite. Files that a killed run
    has left half-written are removed when training begins.

    Args:
        *args: Arguments of ``CheckpointHook``.
        **kwargs: The same.

    Raises:
        FloatingPointError: If weights are not finite.
        ValueError: If gradients are accumulated and checkpoints fall between two updates.
    """

    saves_all_ranks = True
    backend_args: dict | None
    file_backend: Any

    def before_train(self, runner: Runner) -> None:
        """Choose how to write, and clear up behind a killed run."""
        folder = self.out_dir or runner.work_dir
        chosen = self.file_client_args or self.backend_args
        if chosen is None and type(get_file_backend(folder)) is LocalBackend:
            self.backend_args = {'backend': ATOMIC_BACKEND}
        super().before_train(runner)
        self._check_accumulation(runner)
        if is_main_process() and isinstance(self.file_backend, AtomicLocalBackend):
            for folder, pattern in (
                (self.out_dir, '.*.pth.*.pth'),
                (runner.work_dir, '.last_checkpoint.*'),
            ):
                for leftover in Path(folder).glob(pattern):
                    leftover.unlink(missing_ok=True)

    def _check_accumulation(self, runner: Runner) -> None:
        counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if not self.by_epoch and self.interval > 0 and self.interval % counts:
            raise ValueError(
                f'checkpoints every {self.interval} iterations would lose gradients that are '
                f'accumulated over {counts} of them; set interval to a multiple of {counts}'
            )

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        runner.call_hook('gather_for_checkpoint')
        check_finite_weights(runner)
        outdated = self._keep(runner, step)
        name = self.filename_tmpl.format(step)
        path = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', path)
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
            AtomicLocalBackend().put_text(path, Path(runner.work_dir) / 'last_checkpoint')
            if outdated is not None:
                self._remove(outdated)

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
        # mmengine would remove the best one so far before it has written the better one
        backend = self.file_backend
        self.file_backend = postponing = _PostponedRemoval(backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        for path in postponing.removed:
            self._remove(path)

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)


def check_finite_weights(runner: Runner) -> None:
    """Refuse weights that should not be kept.

    Raises:
        FloatingPointError: If one is NaN or infinite.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    bad = [name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    if bad:
        raise FloatingPointError(
            f'after step {runner.iter + 1} {len(bad)} weights are NaN or infinite, such as '
            f'{bad[0]}; no checkpoint is written of them. {last_good_checkpoint(runner)}.'
        )
