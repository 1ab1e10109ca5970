from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from pgseg_mm.datasets.sampling.random_state import derive_seed, seed_all


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Seeds the noise of each training step by the run's seed and the step's number.

    Gumbel noise and drop path are then the same in a resumed run as in one that was never
    interrupted, whatever was evaluated or drawn in between. mmengine keeps the run's seed in its
    checkpoints, and adds the rank to it with ``randomness=dict(diff_rank_seed=True)``: then ranks
    draw different noise, otherwise the same.
    """

    # before anything in a step draws a random number
    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed Python, NumPy and torch."""
        seed_all(derive_seed(runner.seed, runner.iter))
