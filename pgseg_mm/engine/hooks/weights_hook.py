from __future__ import annotations

import re
from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop, Runner
from mmseg.registry import HOOKS

from pgseg_mm.checkpoints.fitting import Purpose, load_fitting
from pgseg_mm.checkpoints.other_settings import warn_of_other_settings
from pgseg_mm.serialization.loading import Checkpoint

from ..models import unwrapped
from ..optimizers.resumed_state import check_state, keep_implementation


@HOOKS.register_module()
class WeightsHook(Hook):
    """Refuses a checkpoint of another model, which mmengine would load in part or not at all.

    The optimizer's state must fit the weights, too, and computes as the config says. What may be
    missing is said by :func:`pgseg_mm.checkpoints.fitting.load_fitting`.
    ``tools/train.py``, ``tools/test.py`` and the tools that evaluate add this hook to any config.

    Args:
        allow_partial: Whether to take whatever fits.

    Raises:
        CheckpointError: If the weights do not fit, with what to do, or the optimizer's state does
            not fit them.
    """

    # after EMAHook has put its weights in their place
    priority = 'LOWEST'

    def __init__(self, allow_partial: bool = False) -> None:
        self.allow_partial = allow_partial

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Look at the weights before they are loaded."""
        purpose: Purpose = 'predict'
        if runner._train_loop is not None and isinstance(runner._train_loop, BaseLoop):
            purpose = 'resume' if runner._resume else 'begin'
        weights: Any = checkpoint
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get('state_dict'), dict):
            weights = {
                re.sub(r'^module\.', '', str(name)): value
                for name, value in checkpoint['state_dict'].items()
            }
        where = _name_of(runner)
        model = unwrapped(runner.model)
        load_fitting(model, weights, where, purpose, self.allow_partial)
        if purpose == 'predict' and 'meta' in checkpoint:
            known = Checkpoint(weights, {'meta': checkpoint['meta']})
            warn_of_other_settings(model, known, where)
        if purpose == 'resume' and isinstance(runner.optim_wrapper, OptimWrapper):
            keep_implementation(runner.optim_wrapper, checkpoint.get('optimizer'))

    def before_train(self, runner: Runner) -> None:
        """Look at what the optimizer has loaded."""
        if isinstance(runner.optim_wrapper, OptimWrapper):
            check_state(runner.optim_wrapper, _name_of(runner))


def _name_of(runner: Runner) -> str:
    return str(runner._load_from or f'the latest checkpoint in {runner.work_dir}')
