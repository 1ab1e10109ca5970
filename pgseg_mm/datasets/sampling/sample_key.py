"""What the sampler and the data set of a training run tell each other."""

from __future__ import annotations

from typing import Any, NamedTuple


class SampleKey(NamedTuple):
    """A sample that a rank is to read; samplers yield it, data sets take it as their index."""

    sample: int
    """Index in a map-style data set; a stream of shards reads its next sample whatever it is."""
    epoch: int
    """Pass over the data set, from 0."""
    position: int
    """Number of the sample among those of this rank, from 0 where the data loader's iterator begins
    or, in a run that was interrupted, would have begun without that. With batches of B and W
    workers, sample n belongs to batch n // B and is read by worker (n // B) % W."""
    seed: int
    """Seed of all random numbers that are drawn for the sample."""


class ReadRecord(NamedTuple):
    """What reading a sample took; it travels with the sample, in its meta information."""

    source: str
    """Name of the data set that the sample is from."""
    key: str
    """Names the sample for a person: a path and row, or a shard and its member."""
    skipped: dict[str, dict[str, int]]
    """For each source and reason the samples that were skipped before this one, since the last."""
    worker: int = 0
    """Which of the W streams of this rank it is from (see :attr:`SampleKey.position`)."""
    state: dict[str, Any] | None = None
    """Where that stream stands behind this sample, of plain values, if it is a stream."""


READ_RECORD = 'read_record'
"""Key of the :class:`ReadRecord` in a pipeline's results and in a data sample's metainfo."""
