"""Image-text pairs in tar shards."""

from __future__ import annotations

import copy
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import Compose
from mmengine.dist import get_dist_info
from mmseg.registry import DATASETS
from torch.utils.data import Dataset, get_worker_info

from pgseg_mm import limits
from pgseg_mm.messages import shown

from ..sampling.random_state import derive_seed, seeded
from ..sampling.sample_key import READ_RECORD, ReadRecord, SampleKey
from ..transforms import DecodeImage
from .shard_stream import MixedStream, Reader, ShardSource, check_shards
from .shards import PIPE, RawSample, count_by_stats, expand_shards, import_webdataset
from .skips import SkipCounter, check_pixel_limits, run_pipeline


@DATASETS.register_module()
class WebImageTextDataset(Dataset):
    """Images with captions from tar shards as img2dataset writes them, several sources by weight.

    To MMEngine's Runner it is a map-style data set with a length; an item is the next sample of a
    stream, whichever index is asked for, which a :class:`SampleKey` says. There is one stream for
    each worker of each rank, a reader; the shards of a source are split over the readers, permuted
    by seed and epoch. A reader that has come to the end of its shards within an epoch goes on with
    another pass over them. Damaged members and shards are skipped and counted.

    An item, before the pipeline, holds ``img_bytes``, ``img_path`` (the shard and the key within
    it), ``caption`` and, as ``read_record``, a :class:`ReadRecord` with the state of the stream
    behind the sample.

    Args:
        sources: One ``dict(shards=..., name=..., weight=..., samples=...)`` or several. ``shards``
            is a pattern or a list of them: paths with braces (``data/{00000..00331}.tar``) or
            wildcards, or commands, ``pipe:...``. ``name`` stands for the source in counts, by
            default its pattern. ``weight`` is its share of the samples, as a ratio, by default its
            number of samples: ``samples``, or else the sum of ``successes`` in img2dataset's
            ``*_stats.json`` beside the shards.
        pipeline: Transforms, :class:`DecodeImage` among them.
        samples_per_epoch: Samples of an epoch, of all ranks together; by default those of all
            sources.
        caption_key: Key of the caption in a ``json`` member, which is read where there is no
            ``txt``.
        shuffle: Whether to permute shards and the samples in them.
        shuffle_block: Samples of a shard that a reader holds, undecoded, and permutes at a time.
        seed: Seed of the order, unless :meth:`set_progress` sets one.
        skip_broken: Whether what is broken is skipped and counted; otherwise it is an error.
        min_pixels: Smallest width times height of an image.
        max_pixels: Largest width times height. Sizes are read before an image is decoded.
        metainfo: Meta information of the data set.

    Raises:
        FileNotFoundError: A pattern of shards matches nothing.
        ImportError: webdataset is not installed.
        ValueError: Names or shards come twice, there are fewer shards than ranks, numbers are out
            of their ranges, or the number of samples or a weight is neither given nor known; or the
            pipeline reads files.
    """

    is_stream = True
    """Samples come in the stream's own order, and its state is needed to go on."""

    def __init__(
        self,
        sources: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        pipeline: Sequence[Any] = (),
        samples_per_epoch: int | None = None,
        caption_key: str = 'caption',
        shuffle: bool = True,
        shuffle_block: int = 1000,
        seed: int = 0,
        skip_broken: bool = True,
        min_pixels: int = 0,
        max_pixels: int = limits.MAX_PAIR_PIXELS,
        metainfo: Mapping[str, Any] | None = None,
    ) -> None:
        import_webdataset()
        check_pixel_limits(min_pixels, max_pixels)
        if shuffle_block < 1:
            raise ValueError(f'shuffle_block must be at least 1, got {shuffle_block}.')
        self.caption_key = caption_key
        self.shuffle = shuffle
        self.shuffle_block = shuffle_block
        self.seed = seed
        self.skip_broken = skip_broken
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels
        self.pipeline = Compose(list(pipeline))
        _check_pipeline(self.pipeline)
        sources = [sources] if isinstance(sources, Mapping) else sources
        self.sources, samples = build_sources(sources)
        self._samples_per_epoch = _epoch_length(samples_per_epoch, samples)
        self._metainfo = dict(metainfo or {})
        # Workers that are spawned do not know them.
        self._rank, self._world_size = get_dist_info()
        for source in self.sources:
            check_shards(source, self._world_size)
        self._batch_size: int | None = None
        self._begin: tuple[int | None, int, int] = (None, 0, 0)
        self._states: dict[int, dict[str, Any]] = {}
        self._streams: dict[int, MixedStream] = {}
        self._streams_of = os.getpid()
        self._skipped = SkipCounter()

    def __len__(self) -> int:
        """Samples of an epoch, of all ranks together."""
        return self._samples_per_epoch

    @property
    def metainfo(self) -> dict[str, Any]:
        """Meta information of the data set."""
        return copy.deepcopy(self._metainfo)

    def full_init(self) -> None:
        """Nothing is left to do; the Runner calls it for every data set."""

    def set_progress(
        self,
        batch_size: int,
        states: Mapping[int, dict[str, Any]] | None = None,
        seed: int | None = None,
        epoch: int | None = None,
        begin: int = 0,
        first_worker: int = 0,
    ) -> None:
        """Say how samples are dealt out, and where the streams stand.

        Called in the main process before the data loader makes its workers.

        Args:
            batch_size: Samples of a batch on this rank: batch n of a data loader's iterator is read
                by worker n % W, and each worker reads one stream.
            states: State of each worker's stream, as the records of samples have it; a worker
                without one, or with one of another epoch than it is asked for, begins the epoch.
            seed: Seed of the order, instead of the data set's own.
            epoch: The epoch whose pass does not begin at its beginning; ``None`` if passes never
                end, or all begin there.
            begin: Position at which that pass begins.
            first_worker: The stream that its first batch is read from.

        Raises:
            ValueError: The batch size is not positive.
        """
        if batch_size < 1:
            raise ValueError(f'batch_size must be at least 1, got {batch_size}.')
        self._batch_size = batch_size
        self._begin = (epoch, begin, first_worker)
        self._states = {int(worker): state for worker, state in (states or {}).items()}
        self._rank, self._world_size = get_dist_info()
        if seed is not None:
            self.seed = seed
        self._forget_streams()

    def __getitem__(self, key: SampleKey) -> Any:
        """The next sample of the stream that the key belongs to, after the pipeline.

        Args:
            key: Its epoch and position choose the stream, its seed is that of the augmentations.

        Raises:
            RuntimeError: :meth:`set_progress` was not called, or a source has no usable sample.
            TypeError: The index is no :class:`SampleKey`.
            UnusableSample: A sample is broken, and nothing is to be skipped.
            ValueError: A source has fewer shards than there are readers, or the state is that of
                another reader or of other sources.
        """
        if not isinstance(key, SampleKey):
            raise TypeError(
                f'{type(self).__name__} is a stream and is read by SampleKey, not by {key!r}; set '
                "the data loader's sampler to one that yields them."
            )
        if self._batch_size is None:
            raise RuntimeError('Call set_progress(batch_size) before samples are read.')
        worker = self._worker(key, self._batch_size)
        stream = self._stream(worker, key.epoch)
        self._skipped.clear()

        def use(sample: RawSample, source: str) -> Any:
            image, caption = sample.pair(self.caption_key)
            record = ReadRecord(source, sample.name, self._skipped.counts(), worker, stream.state())
            results = {
                'img_bytes': image,
                'img_path': sample.name,
                'caption': caption,
                READ_RECORD: record,
            }
            with seeded(key.seed):
                return run_pipeline(
                    self.pipeline,
                    results,
                    f'Image {sample.name}',
                    self.min_pixels,
                    self.max_pixels,
                )

        return stream.next(use, self._skipped, self.skip_broken)

    def __iter__(self) -> Iterator[Any]:
        """The samples of the first epoch one after another, for looking at them."""
        dataset = copy.copy(self)
        dataset._streams = {}
        dataset.set_progress(batch_size=1)
        for number in range(len(self) // self._world_size):
            yield dataset[SampleKey(number, 0, number, derive_seed(self.seed, number))]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_streams': {}}

    def _worker(self, key: SampleKey, batch_size: int) -> int:
        """The stream of a sample: batches are whole from where the pass begins."""
        epoch, begin, first = self._begin
        if epoch not in (None, key.epoch):
            begin = first = 0
        return (first + (key.position - begin) // batch_size) % _num_workers()

    def _stream(self, worker: int, epoch: int) -> MixedStream:
        if self._streams_of != os.getpid():
            # A forked worker shares the parent's open files, and so their positions.
            self._streams = {}
            self._streams_of = os.getpid()
        stream = self._streams.get(worker)
        if stream is None or stream.epoch != epoch:
            if stream is not None:
                stream.close()
            state = self._states.get(worker)
            if state is not None and state['epoch'] != epoch:
                state = None
            workers = _num_workers()
            stream = self._streams[worker] = MixedStream(
                self.sources,
                self.seed,
                epoch,
                Reader(self._rank * workers + worker, self._world_size * workers),
                self.shuffle_block,
                self.shuffle,
                self._setups(),
                state,
            )
        return stream

    def _setups(self) -> tuple[int, int]:
        """Numbers that change with whatever the order depends on: as checkpoints have it, and as
        those of earlier versions, in which a source without a name had that of its folder.
        """
        names = [
            [
                shard if shard.startswith(PIPE) else os.path.basename(shard)
                for shard in source.shards
            ]
            for source in self.sources
        ]

        def number(*sources: str) -> int:
            weights = [(n, s.weight) for n, s in zip(sources, self.sources, strict=True)]
            setup = (names, weights, self.seed, self.shuffle, self.shuffle_block)
            return zlib.crc32(repr(setup).encode())

        return (
            number(*(source.name if source.is_named else '' for source in self.sources)),
            number(*(source.name for source in self.sources)),
        )

    def _forget_streams(self) -> None:
        if self._streams_of == os.getpid():
            for stream in self._streams.values():
                stream.close()
        self._streams = {}


def build_sources(
    configs: Sequence[Mapping[str, Any]],
) -> tuple[list[ShardSource], list[int | None]]:
    """Sources with their shards, and how many samples each has, where that is known.

    Args:
        configs: ``dict(shards=..., name=..., weight=..., samples=...)`` each.

    Raises:
        FileNotFoundError: A pattern of shards matches nothing.
        ValueError: There is no source, one has other keys or a name that another has, or a weight
            is neither given nor known, or not positive.
    """
    sources, samples = [], []
    for config in configs:
        unknown = set(config) - {'shards', 'name', 'weight', 'samples'}
        if unknown or 'shards' not in config:
            raise ValueError(
                f'A source is {dict(config)}; expected a dict with shards, and optionally name, '
                'weight and samples.'
            )
        shards = expand_shards(config['shards'])
        number = config.get('samples')
        name = config.get('name') or str(config['shards'])
        if number is None:
            number = count_by_stats(shards)
        else:
            number = _whole(number, f'samples of source {name!r}')
        weight = config.get('weight', number if len(configs) > 1 else 1)
        if weight is None:
            raise ValueError(
                f'Source {name!r} has no weight, and its number of samples is not known; give it '
                'weight=..., samples=..., or the *_stats.json files of img2dataset.'
            )
        if not weight > 0:
            raise ValueError(f'Source {name!r} has the weight {weight}; expected one above 0.')
        sources.append(ShardSource(name, shards, float(weight), bool(config.get('name'))))
        samples.append(number)
    names = [source.name for source in sources]
    if not sources or len(set(names)) < len(names):
        raise ValueError(f'The names of the sources are {names}; expected at least one, each once.')
    if 0 < sum('weight' in config for config in configs) < len(configs):
        raise ValueError(f'Give a weight to all of the sources {names}, or to none.')
    return sources, samples


def _epoch_length(given: int | None, samples: Sequence[int | None]) -> int:
    if given is None:
        known = [number for number in samples if number is not None]
        if len(known) < len(samples):
            raise ValueError(
                'How many samples the shards hold is not known, because they have no *_stats.json '
                'beside them; set samples_per_epoch, or samples of each source.'
            )
        given = sum(known)
    return _whole(given, 'samples_per_epoch')


def _whole(number: Any, name: str) -> int:
    if isinstance(number, bool) or not isinstance(number, (int, float)) or number != number // 1:
        raise ValueError(f'{name} is {shown(number)}; expected a whole number.')
    if number < 1:
        raise ValueError(f'{name} is {number}; expected at least 1.')
    return int(number)


def _check_pipeline(pipeline: Compose) -> None:
    for transform in pipeline.transforms:
        if isinstance(transform, LoadImageFromFile) and not isinstance(transform, DecodeImage):
            raise ValueError(
                f'{type(transform).__name__} reads files, but these images are in shards; '
                "put dict(type='DecodeImage') in its place."
            )


def _num_workers() -> int:
    info = get_worker_info()
    return 1 if info is None else info.num_workers
