from __future__ import annotations

import re
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from mmseg.registry import HOOKS

from pgseg_mm.checkpoints.fitting import Purpose, load_fitting

from ..models import unwrapped


@HOOKS.register_module()
class WeightsHook(Hook):
    """Refuses a checkpoint of another model, which mmengine would load in part or not at all.

    What may be missing is said by :func:`pgseg_mm.checkpoints.fitting.load_fitting`.
    ``tools/train.py``, ``tools/test.py`` and the tools that evaluate add this hook to any config.

    Args:
        allow_partial: Whether to take whatever fits.

    Raises:
        CheckpointError: If the weights do not fit, with what to do.
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
        where = runner._load_from or f'the latest checkpoint in {runner.work_dir}'
        load_fitting(unwrapped(runner.model), weights, where, purpose, self.allow_partial)
