from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from mmseg.registry import HOOKS

from ..preflight import before_test, before_train, rehearse_validation
from ..preflight.steps import is_left
from .checked_loading_hook import CheckedLoadingHook


@HOOKS.register_module()
class PreflightHook(Hook):
    """Checks a whole run before its first step.

    Training ends before it begins if it would have no step, a batch that batch norm cannot take,
    too few shards, weights to begin with that are not the model's, a folder that cannot be written,
    or a validation without images, words or classes, or one that fails at its first image.
    ``tools/train.py`` and ``tools/test.py`` add this hook to any config.

    Raises:
        PreflightError: If something is wrong, in one sentence.
    """

    # before any other hook does something
    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._checked: set[str] = set()

    def before_run(self, runner: Runner) -> None:
        """Check what is going to be run: a training, or else what is evaluated."""
        built = [
            split
            for split in ('train', 'val', 'test')
            if isinstance(getattr(runner, f'_{split}_loop'), BaseLoop)
        ]
        for split in built:
            if split in self._checked:
                continue
            if split == 'train':
                before_train(runner)
            elif not (split == 'val' and 'train' in built):  # a training has checked it
                before_test(runner, split)
            self._checked.add(split)

    def before_train(self, runner: Runner) -> None:
        """Try the validation, now that the weights are loaded; tell of a run that has ended."""
        if not is_left(runner):
            return
        if runner.val_loop is not None:
            for hook in runner.hooks:
                if isinstance(hook, CheckedLoadingHook):
                    hook.before_val(runner)
            rehearse_validation(runner)
