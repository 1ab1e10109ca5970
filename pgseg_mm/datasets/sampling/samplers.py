"""The order in which the ranks of a training run read, and where a resumed run goes on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sized

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmseg.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from .random_state import derive_seed
from .sample_key import SampleKey


@DATA_SAMPLERS.register_module()
class ResumableSampler(Sampler[SampleKey]):
    """Deals the samples of each epoch out to the ranks, and can begin anywhere.

    The order of an epoch is a permutation by seed and epoch; rank r of W takes its places r, r + W
    and so on. A place has a seed of its own. So neither order nor seeds depend on ranks, workers,
    or on where a run was resumed. A stream of shards has no order to permute: its samples are
    numbered only, and it reads with the seeds that it is given.

    Args:
        dataset: Data set that takes a :class:`SampleKey` as its index: a :class:`SeededDataset`, or
            a stream, which has an attribute ``is_stream = True``.
        shuffle: Whether to permute; each epoch differently.
        seed: The same on all ranks; ``None`` for a random one. A resumed run goes on with the seed
            of the run that it continues (:class:`pgseg_mm.engine.DataStateHook`).
        infinite: Whether epochs follow each other without end, as loops by iterations need it.
        round_up: Whether the last round takes samples from the beginning of the order where there
            are fewer left than ranks; otherwise they are left out. Of no meaning with ``infinite``.

    Raises:
        TypeError: If the data set does not take sample keys.
        ValueError: If there are fewer samples than ranks, and ``round_up`` is off.
    """

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: int | None = None,
        infinite: bool = False,
        round_up: bool = True,
    ) -> None:
        self.is_stream = getattr(dataset, 'is_stream', False)
        if not self.is_stream and not getattr(dataset, 'takes_sample_keys', False):
            raise TypeError(
                f'ResumableSampler yields sample keys, which {type(dataset).__name__} does not '
                "take; wrap it: dataset=dict(type='SeededDataset', dataset=dict(...))"
            )
        self.rank, self.world_size = get_dist_info()
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.infinite = infinite
        self.size = len(dataset)
        rounds = -(-self.size // self.world_size) if round_up else self.size // self.world_size
        if rounds == 0:
            raise ValueError(
                f'{self.size} samples cannot be dealt out to {self.world_size} ranks; give more '
                'data, or set round_up=True'
            )
        self.num_samples = rounds
        self.epoch = 0
        self._begin = (0, 0)
        self._is_told = False

    def __len__(self) -> int:
        """Samples of this rank in a whole epoch."""
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is; without effect if passes never end."""
        if not self.infinite:
            self.epoch = epoch

    def begin_at(self, epoch: int, consumed: int) -> None:
        """Let the pass over an epoch begin behind what has been trained on.

        Args:
            epoch: The epoch; 0 if passes never end.
            consumed: Samples of it, or of all epochs if passes never end, that all ranks together
                have been trained on. Other epochs begin at their beginning.
        """
        self.set_epoch(epoch)
        self._begin = (epoch, consumed)
        self._is_told = True

    def skip(self, num_samples: int) -> None:
        """Let the next pass begin behind ``num_samples`` samples of each rank.

        They count from the beginning of the epoch, or of the run if passes never end: the contract
        of the continuation's ``IterBasedTrainLoop``, which counts with the present size of a batch.
        Without effect where :meth:`begin_at` has said how many there were.
        """
        if num_samples < 0:
            raise ValueError(f'num_samples must not be negative, got {num_samples}')
        if not self._is_told:
            self._begin = (self.epoch, num_samples * self.world_size)

    @property
    def num_skipped(self) -> int:
        """Samples of this rank that the pass over the present epoch leaves out at its beginning."""
        epoch, consumed = self._begin
        return consumed // self.world_size if epoch == self.epoch else 0

    def __iter__(self) -> Iterator[SampleKey]:
        """Keys of the samples of this rank, to the end of the epoch or without end."""
        epoch, consumed = self._begin
        first = (consumed if epoch == self.epoch else 0) + self.rank
        if self.infinite:
            numbers: Iterator[int] = itertools.count(first, self.world_size)
        else:
            end = self.num_samples * self.world_size
            # ranks take the same number, also where another number of ranks has begun the epoch
            rounds = max(end - first + self.rank, 0) // self.world_size
            numbers = iter(range(first, first + rounds * self.world_size, self.world_size))
        known, order = -1, None
        for number in numbers:
            epoch, place = divmod(number, self.size) if self.infinite else (self.epoch, number)
            if epoch != known:
                known, order = epoch, self._order(epoch)
            yield SampleKey(
                sample=place if order is None else int(order[place % self.size]),
                epoch=epoch,
                position=number // self.world_size,
                seed=derive_seed(self.seed, epoch, place),
            )

    def _order(self, epoch: int) -> np.ndarray | None:
        if self.is_stream:
            return None
        if not self.shuffle:
            return np.arange(self.size)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        return torch.randperm(self.size, generator=generator).numpy()
