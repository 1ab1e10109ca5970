"""Reading of shards, as a loader does it."""

from torch.utils.data import DataLoader, Sampler

from pgseg_mm.datasets import WebImageTextDataset
from pgseg_mm.datasets.sampling.sample_key import READ_RECORD, SampleKey

PIPELINE = [
    dict(type='DecodeImage'),
    dict(type='mmpretrain.RandomResizedCrop', scale=16, crop_ratio_range=(0.2, 1.0)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='TokenizeCaption', context_length=8),
    dict(type='PackImageTextInputs'),
]
BATCH = 4


class Keys(Sampler):
    """Keys of one epoch, as a seeded sampler gives them, from a position on."""

    def __init__(self, length, epoch=0, start=0):
        self.length, self.epoch, self.start = length, epoch, start

    def __iter__(self):
        for n in range(self.start, self.start + self.length):
            yield SampleKey(n, self.epoch, n, 1000 * self.epoch + n)

    def __len__(self):
        return self.length


def make(pattern, **kwargs):
    kwargs.setdefault('samples_per_epoch', 1000)
    kwargs.setdefault('shuffle_block', 8)
    sources = pattern if isinstance(pattern, list) else dict(name='zoo', shards=pattern)
    return WebImageTextDataset(sources, pipeline=PIPELINE, **kwargs)


def read(dataset, length, workers=0, epoch=0, start=0, states=None, batch=BATCH, resumed=None):
    """Data samples and images of some batches, in the order of the data loader."""
    dataset.set_progress(batch, states, **(resumed or {}))
    loader = DataLoader(
        dataset,
        batch_size=batch,
        sampler=Keys(length, epoch, start),
        num_workers=workers,
        collate_fn=list,
    )
    return [sample for batch in loader for sample in batch]


def records(samples):
    return [sample['data_samples'].metainfo[READ_RECORD] for sample in samples]


def keys(samples):
    return [record.key.rsplit('/', 1)[1] for record in records(samples)]
