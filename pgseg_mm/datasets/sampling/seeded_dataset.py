"""Augmentations that depend on the sample alone."""

from __future__ import annotations

from typing import Any

from mmengine.dataset import BaseDataset
from mmseg.registry import DATASETS
from torch.utils.data import Dataset

from ..transforms.checked_loading import check_loading
from .random_state import seeded
from .sample_key import SampleKey


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Draws all random numbers for a sample from the seed in its :class:`SampleKey`.

    A sample is then augmented in the same way whichever worker reads it, after whatever it has read
    before, and in a resumed run as in one that was never interrupted.

    Args:
        dataset: Map-style data set or its config, such as an :class:`ImageTextDataset` or a
            ``ConcatDataset`` of several.
    """

    takes_sample_keys = True

    def __init__(self, dataset: dict[str, Any] | BaseDataset) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        check_loading(self.dataset)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Meta information of the data set inside."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Read the annotations, if that was put off."""
        self.dataset.full_init()

    def get_data_info(self, index: int) -> dict[str, Any]:
        """Annotation of a sample."""
        return self.dataset.get_data_info(index)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: SampleKey | int) -> Any:
        """A sample, by its key, or by its number alone and with the random state as it is."""
        if not isinstance(index, SampleKey):
            return self.dataset[index]
        with seeded(index.seed):
            return self.dataset[index.sample]
