import itertools
from collections import Counter

import pytest
from torch.utils.data import DataLoader

from pgseg_mm.datasets import ResumableSampler, SeededDataset
from pgseg_mm.datasets.sampling import samplers
from pgseg_mm.datasets.sampling.sample_key import SampleKey


class Numbers:
    """Data set of ten samples that takes keys."""

    takes_sample_keys = True
    metainfo: dict = {}

    def __init__(self, size=10):
        self.size = size

    def __len__(self):
        return self.size


class Stream(Numbers):
    takes_sample_keys = False
    is_stream = True


def sampler(monkeypatch, rank=0, world_size=1, dataset=None, **settings):
    monkeypatch.setattr(samplers, 'get_dist_info', lambda: (rank, world_size))
    return ResumableSampler(dataset or Numbers(), seed=7, **settings)


def read(source, number):
    return list(itertools.islice(iter(source), number))


def test_epochs_are_permutations_that_differ(monkeypatch):
    one = sampler(monkeypatch)
    orders = []
    for epoch in range(3):
        one.set_epoch(epoch)
        orders.append([key.sample for key in one])
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert len(one) == 10


def test_a_sample_is_augmented_otherwise_in_another_epoch(monkeypatch):
    source = sampler(monkeypatch)
    seeds = []
    for epoch in range(3):
        source.begin_at(epoch, 0)
        seeds.append({key.seed for key in source})
    assert not seeds[0] & seeds[1] and not seeds[1] & seeds[2]


def test_ranks_share_the_order_of_one_process(monkeypatch):
    whole = read(sampler(monkeypatch), 10)
    ranks = [list(sampler(monkeypatch, rank, 3)) for rank in range(3)]
    assert [len(keys) for keys in ranks] == [4, 4, 4]
    dealt = [key for place in zip(*ranks, strict=True) for key in place]
    assert [key.sample for key in dealt[:10]] == [key.sample for key in whole]
    assert [key.seed for key in dealt[:10]] == [key.seed for key in whole]
    # filled up from the beginning of the order, with seeds of their own
    assert [key.sample for key in dealt[10:]] == [key.sample for key in whole[:2]]
    assert len({key.seed for key in dealt}) == 12
    assert [key.position for key in ranks[1]] == [0, 1, 2, 3]


def test_what_does_not_fill_a_round_can_be_left_out(monkeypatch):
    ranks = [list(sampler(monkeypatch, rank, 3, round_up=False)) for rank in range(3)]
    assert [len(keys) for keys in ranks] == [3, 3, 3]
    assert max(Counter(key.sample for keys in ranks for key in keys).values()) == 1
    with pytest.raises(ValueError, match='10 samples cannot be dealt out to 11 ranks'):
        sampler(monkeypatch, 0, 11, round_up=False)


def test_endless_epochs_are_those_of_single_epochs(monkeypatch):
    single = sampler(monkeypatch)
    expected = []
    for epoch in range(3):
        single.set_epoch(epoch)
        expected += [(key.sample, key.epoch, key.seed) for key in single]
    ranks = [read(sampler(monkeypatch, rank, 4, infinite=True), 8) for rank in range(4)]
    dealt = [key for place in zip(*ranks, strict=True) for key in place]
    assert [(key.sample, key.epoch, key.seed) for key in dealt[:30]] == expected


@pytest.mark.parametrize('infinite', [False, True])
@pytest.mark.parametrize('world_size', [1, 2])
def test_it_goes_on_where_it_stood(monkeypatch, infinite, world_size):
    for rank in range(world_size):
        whole = sampler(monkeypatch, rank, world_size, infinite=infinite)
        whole.set_epoch(2)
        expected = read(whole, 5)[3:]
        later = sampler(monkeypatch, rank, world_size, infinite=infinite)
        later.begin_at(0 if infinite else 2, 3 * world_size)
        assert later.num_skipped == 3
        assert read(later, 2) == expected
        skipping = sampler(monkeypatch, rank, world_size, infinite=infinite)
        skipping.set_epoch(2)
        skipping.skip(3)
        assert read(skipping, 2) == expected
        skipping.begin_at(0 if infinite else 2, 3 * world_size)
        skipping.skip(1)  # of a loop that counts with another size of a batch
        assert read(skipping, 2) == expected


def test_the_next_epoch_is_whole_and_an_epoch_that_is_over_is_empty(monkeypatch):
    one = sampler(monkeypatch)
    one.begin_at(1, 10)
    assert list(one) == []
    one.set_epoch(2)
    assert len(list(one)) == 10
    assert one.num_skipped == 0


def test_other_ranks_go_on_with_the_same_order(monkeypatch):
    whole = read(sampler(monkeypatch, infinite=True), 24)
    ranks = []
    for rank in range(3):
        later = sampler(monkeypatch, rank, 3, infinite=True)
        later.begin_at(0, 8)  # two ranks have read four each
        ranks.append(read(later, 5))
    dealt = [key for place in zip(*ranks, strict=True) for key in place]
    assert [key.sample for key in dealt] == [key.sample for key in whole[8:23]]
    assert [key.seed for key in dealt] == [key.seed for key in whole[8:23]]


def test_a_stream_is_numbered(monkeypatch):
    keys = list(sampler(monkeypatch, 1, 2, dataset=Stream()))
    assert [key.sample for key in keys] == [1, 3, 5, 7, 9]
    assert [key.position for key in keys] == [0, 1, 2, 3, 4]


def test_sets_that_take_no_keys_are_refused(monkeypatch):
    with pytest.raises(TypeError, match=r'list does not take; wrap it: .*SeededDataset'):
        sampler(monkeypatch, dataset=[1, 2])


class Noisy(Numbers):
    def __getitem__(self, index):
        import random

        import numpy as np
        import torch

        return [index, random.random(), np.random.rand(), torch.rand(1).item()]


@pytest.mark.parametrize('workers', [0, 2])
def test_augmentations_depend_on_the_sample_alone(monkeypatch, workers):
    def loaded(begin, workers):
        source = sampler(monkeypatch, dataset=SeededDataset(Noisy()))
        source.begin_at(0, begin)
        loader = DataLoader(
            SeededDataset(Noisy()), 2, sampler=source, num_workers=workers, collate_fn=list
        )
        return [sample for batch in loader for sample in batch]

    expected = loaded(0, 0)
    assert len({tuple(sample) for sample in expected}) == 10
    assert loaded(0, workers) == expected
    assert loaded(4, workers) == expected[4:]


def test_a_seeded_set_passes_the_inner_one_through():
    inner = Noisy()
    outer = SeededDataset(inner)
    assert len(outer) == 10
    assert outer.metainfo is inner.metainfo
    assert outer[SampleKey(3, 0, 0, 5)] == outer[SampleKey(3, 4, 2, 5)]
    assert outer[3] != outer[3]
