"""Hostile lists of pairs and shards."""

from pgseg_mm.datasets.pairs.shards import read_shard
from pgseg_mm.datasets.pairs.skips import UnusableSample

LOAD = [dict(type='DecodeImage')]
DEEP = '[' * 100_000 + ']' * 100_000


def read_all(shard):
    """Keys of the samples, faults of those that are no pairs, and that of the shard."""
    keys, faults = [], []
    try:
        for sample in read_shard(shard):
            try:
                sample.pair('caption')
                keys.append(sample.key)
            except UnusableSample as fault:
                faults.append(fault)
    except UnusableSample as fault:
        faults.append(fault)
    return keys, faults
