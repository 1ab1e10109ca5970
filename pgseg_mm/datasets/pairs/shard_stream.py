"""The order in which one reader goes through tar shards, and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np

from pgseg_mm.errors import UnusableDataError
from pgseg_mm.messages import shown

from ..sampling.random_state import derive_seed
from .shards import RawSample, read_shard
from .skips import BROKEN_SHARD, SkipCounter, UnusableSample, describe_counts
from .tar_files import most_held

SHARDS, PASS, BLOCK, DRAWS = range(4)  # what a seed is for
DRAWS_AT_A_TIME = 1024

Sample = TypeVar('Sample')


@dataclass(frozen=True)
class ShardSource:
    """Shards that belong together.

    Args:
        name: Name of the source in counts and states.
        shards: Paths and commands.
        weight: Share of the samples that come from this source, as a ratio.
        is_named: Whether it has that name of its own, and not that of its shards.
    """

    name: str
    shards: Sequence[str]
    weight: float
    is_named: bool = True


class Reader(NamedTuple):
    """One of the readers among which shards are split: a worker of a rank."""

    number: int
    """From 0; all readers of all ranks are numbered."""
    total: int
    """Workers of all ranks together."""


class Cursor(NamedTuple):
    """How far a reader has come with a source."""

    passes: int = 0
    """Times that it has gone through all its shards."""
    shard: int = 0
    """Place in its shards, in the order of this pass."""
    block: int = 0
    """Block of samples within the shard."""
    offset: int = 0
    """Place within the block, in the order drawn for it."""


Event = tuple[RawSample | UnusableSample | None, Cursor]
"""A sample, a broken shard, or None at the end of a pass; and the cursor behind it."""


class SourceStream:
    """Samples of one source, endlessly, for one reader.

    All shards are permuted by seed and epoch, and reader r of R takes every R-th, from the r-th on.
    Having gone through its own, it does so again in another order. Within a shard, blocks of
    samples are permuted, so that to stand anywhere takes no more than reading one block.

    Args:
        shards: All shards of the source.
        seed: Seed of the order: the run's, the epoch and the source.
        reader: Which reader this is.
        block_size: Samples that are read and permuted at a time; 1 keeps them in their order.
        cursor: Where to begin.
        shuffle: Whether to permute shards as well.
    """

    def __init__(
        self,
        shards: Sequence[str],
        seed: int,
        reader: Reader,
        block_size: int,
        cursor: Cursor,
        shuffle: bool = True,
    ) -> None:
        self.cursor = cursor
        self.seed = seed
        self.block_size = block_size
        self.shuffle = shuffle
        order = self._order(len(shards), SHARDS)
        self._numbers = order[reader.number :: reader.total]
        self._shards = shards
        self._events = self._read(cursor)

    def next(self) -> RawSample | UnusableSample | None:
        """The next sample, a broken shard, or None at the end of a pass; moves :attr:`cursor`."""
        event, self.cursor = next(self._events)
        return event

    def close(self) -> None:
        """Close the shard that is open."""
        self._events.close()  # type: ignore[attr-defined]

    def _order(self, length: int, *numbers: int) -> list[int]:
        if not self.shuffle:
            return list(range(length))
        rng = np.random.default_rng([self.seed, *numbers])
        return rng.permutation(length).tolist()

    def _read(self, start: Cursor) -> Iterator[Event]:
        passes, shard, block, offset = start
        while True:
            places = self._order(len(self._numbers), PASS, passes)
            for place in range(shard, len(places)):
                here = Cursor(passes, place, block, offset)
                yield from self._read_shard(self._numbers[places[place]], here)
                block = offset = 0
            passes, shard = passes + 1, 0
            yield None, Cursor(passes)

    def _read_shard(self, number: int, start: Cursor) -> Iterator[Event]:
        passes, place, block, offset = start
        samples = read_shard(self._shards[number], skip=block * self.block_size)
        limit = most_held(self._shards[number]) if self.block_size > 1 else float('inf')
        fault: UnusableSample | None = None
        while fault is None:
            raw: list[RawSample] = []
            held = 0
            try:
                for sample in islice(samples, self.block_size):
                    held += sample.size
                    if held > limit:
                        raise UnusableSample(
                            BROKEN_SHARD,
                            f'Shard {shown(sample.shard)} unpacks to more than can be held, over '
                            f'{limit} bytes for {self.block_size} samples; lower shuffle_block.',
                        )
                    raw.append(sample)
            except UnusableSample as error:
                fault = error
            order = self._order(len(raw), BLOCK, passes, number, block)
            whole = len(raw) == self.block_size
            for at in range(offset, len(order)):
                yield raw[order[at]], Cursor(passes, place, block, at + 1)
            if not whole:
                break
            block, offset = block + 1, 0
        if fault is not None:
            yield fault, Cursor(passes, place + 1)


class MixedStream:
    """Samples of several sources, drawn by weight, endlessly, for one reader and one epoch.

    Args:
        sources: The sources.
        seed: Seed of the order.
        epoch: Which epoch; each has an order of its own.
        reader: Which reader this is.
        block_size: Samples of a source that are read and permuted at a time.
        shuffle: Whether to permute shards and samples.
        setups: Numbers that stand for all that the order depends on: that which is kept in the
            state, and others that a state may have.
        state: Where to begin, as :meth:`state` has told it; by default at the beginning.

    Raises:
        ValueError: A source has fewer shards than there are readers, or the state is that of
            another reader, or of other sources.
    """

    def __init__(
        self,
        sources: Sequence[ShardSource],
        seed: int,
        epoch: int,
        reader: Reader,
        block_size: int,
        shuffle: bool = True,
        setups: Sequence[int] = (0,),
        state: dict[str, Any] | None = None,
    ) -> None:
        self.epoch, self.reader, self._setups = epoch, reader, tuple(setups)
        for source in sources:
            check_shards(source, reader.total)
        self._sources = sources
        if state is not None:
            self._check_state(state)
        weights = np.array([source.weight for source in sources], dtype=float)
        self._weights = weights / weights.sum()
        self._seed = derive_seed(seed, epoch)
        self._draws = 0 if state is None else state['draws']
        self._drawn: tuple[int, list[int]] = (-1, [])
        # in the order of the sources, which the setup has checked; names may be those of folders
        cursors = None if state is None else [Cursor(*c) for c in state['sources'].values()]
        self._streams = [
            SourceStream(
                source.shards,
                derive_seed(self._seed, number),
                reader,
                block_size,
                Cursor() if cursors is None else cursors[number],
                shuffle,
            )
            for number, source in enumerate(sources)
        ]

    def next(
        self,
        use: Callable[[RawSample, str], Sample],
        skipped: SkipCounter,
        skip_broken: bool = True,
    ) -> Sample:
        """The next sample that can be used.

        Args:
            use: Makes something of a sample, given the name of its source, or raises
                :class:`UnusableSample`; during the call, :meth:`state` is behind that sample.
            skipped: Counts what was skipped.
            skip_broken: Whether to skip anything.

        Returns:
            What ``use`` has returned.

        Raises:
            RuntimeError: A whole pass over the shards of a source had no usable sample.
            UnusableSample: A sample or shard is broken and nothing is to be skipped.
        """
        number = self._draw()
        source, stream = self._sources[number], self._streams[number]
        passes = stream.cursor.passes
        while True:
            event = stream.next()
            try:
                if isinstance(event, UnusableSample):
                    raise event
                if event is not None:
                    return use(event, source.name)
            except UnusableSample as fault:
                if not skip_broken:
                    raise
                skipped.add(source.name, fault)
            if stream.cursor.passes > passes + 1:
                counts = describe_counts(skipped.counts().get(source.name, {}))
                raise UnusableDataError(
                    f'Source {source.name!r} has no usable sample in the shards of reader '
                    f'{self.reader.number} of {self.reader.total} ({counts}, in two passes over '
                    'them); check the shards with tools/dataset_converters/verify_shards.py.'
                )

    def state(self) -> dict[str, Any]:
        """Where the stream stands, of plain values."""
        return dict(
            epoch=self.epoch,
            reader=list(self.reader),
            setup=self._setups[0],
            draws=self._draws,
            sources={
                source.name: list(stream.cursor)
                for source, stream in zip(self._sources, self._streams, strict=True)
            },
        )

    def close(self) -> None:
        """Close the shards that are open."""
        for stream in self._streams:
            stream.close()

    def _draw(self) -> int:
        """Number of the source of the next sample."""
        self._draws += 1
        if len(self._sources) == 1:
            return 0
        block, place = divmod(self._draws - 1, DRAWS_AT_A_TIME)
        if self._drawn[0] != block:
            rng = np.random.default_rng([self._seed, self.reader.number, DRAWS, block])
            drawn = rng.choice(len(self._sources), size=DRAWS_AT_A_TIME, p=self._weights)
            self._drawn = block, drawn.tolist()
        return self._drawn[1][place]

    def _check_state(self, state: dict[str, Any]) -> None:
        if list(state['reader']) != list(self.reader):
            raise ValueError(
                f'The saved position is that of reader {state["reader"][0]} of '
                f'{state["reader"][1]}, but this is reader {self.reader.number} of '
                f'{self.reader.total}; resume with the number of processes and of num_workers '
                'that the run was begun with.'
            )
        if state['setup'] not in self._setups or len(state['sources']) != len(self._sources):
            raise ValueError(
                'The shards, weights, seed or shuffling differ from those of the run that is to be '
                'resumed, so that its position in them means nothing; restore them, or begin anew.'
            )


def check_shards(source: ShardSource, readers: int) -> None:
    """Hold the number of shards against the number of readers.

    Raises:
        ValueError: There are fewer shards than readers.
    """
    if len(source.shards) < readers:
        raise ValueError(
            f'Source {source.name!r} has {len(source.shards)} shards for {readers} readers '
            '(processes times num_workers), and no shard is read by two; '
            f'lower num_workers, or cut the source into at least {readers} shards.'
        )
