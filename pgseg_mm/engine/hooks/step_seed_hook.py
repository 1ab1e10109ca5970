from typing import Any

from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from pgseg_mm.datasets.sampling.random_state import derive_seed, seed_all
from pgseg_mm.models.layers.dist import STEP_SEED


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Seeds the noise of each training step by the run's seed and the step's number.

    Gumbel noise and drop path are then the same in a resumed run as in one that was never
    interrupted, whatever was evaluated or drawn in between. mmengine keeps the run's seed in its
    checkpoints, and adds the rank to it with ``randomness=dict(diff_rank_seed=True)``: then ranks
    draw different noise, otherwise the same. What ranks must draw alike, as
    :class:`RandomBatchAugment` does, they draw from a seed in the message hub, which is that of the
    first rank.
    """

    # before anything in a step draws a random number
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._seed_of_first_rank = 0

    def before_train(self, runner: Runner) -> None:
        """Learn the seed of the first rank."""
        seeds = [runner.seed]
        broadcast_object_list(seeds)
        self._seed_of_first_rank = seeds[0]

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed Python, NumPy and torch."""
        seed_all(derive_seed(runner.seed, runner.iter))
        # one number more: not the numbers that the step's noise is made of
        shared = derive_seed(self._seed_of_first_rank, runner.iter, 1)
        runner.message_hub.update_info(STEP_SEED, shared, resumed=False)
