"""What is asked for of each image, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from mmseg.structures import SegDataSample
from numpy.typing import NDArray

from pgseg_mm.models import OpenVocabSegmentor
from pgseg_mm.visualization import draw_segmentation, groups_of

from .results import ResultWriter, Segmentation

MAX_DENSE_BYTES = 2**32
"""Bytes that the dense scores of an image may take."""


class LoadedImage(NamedTuple):
    """An image that is ready to be segmented, or why it is not."""

    name: str
    path: str | None
    array: NDArray[np.uint8] | None = None
    """(H, W, 3), BGR."""
    packed: dict[str, Any] | None = None
    """What the model takes."""
    error: str | None = None


class Request(NamedTuple):
    """What is asked for of each image."""

    view: OpenVocabSegmentor
    """The model with the classes."""
    classes: tuple[str, ...]
    pictures: bool
    writer: ResultWriter | None
    raises: bool
    """Whether an image that cannot be read is an error."""

    def check_memory(self, array: NDArray[np.uint8], name: str) -> None:
        """Refuse dense scores that would not fit into memory.

        Raises:
            ValueError: If they would not.
        """
        size = 4 * len(self.classes) * array.shape[0] * array.shape[1]
        if self.view.test_cfg['seg_logits'] and size > MAX_DENSE_BYTES:
            raise ValueError(
                f'Dense scores of {len(self.classes)} classes for {name}, {array.shape[1]} x '
                f"{array.shape[0]} pixels, would take {size / 1e9:.1f} GB; ask for scores='classes'"
                ', fewer classes or a smaller image.'
            )

    def result(self, image: LoadedImage, sample: SegDataSample | None) -> Segmentation:
        """The result of an image, which is written to files if that is asked for.

        Args:
            image: The image.
            sample: The model's prediction; ``None`` for an image that was not loaded.
        """
        if sample is None:
            return Segmentation(None, self.classes, image.name, image.path, error=image.error)
        mask = sample.pred_sem_seg.data[0].to(torch.int32).cpu().numpy()
        groups = groups_of(sample)[0] or None
        scores = sample.get('class_scores')
        if 'seg_logits' in sample:
            scores = sample.seg_logits.data
        result = Segmentation(
            mask,
            self.classes,
            image.name,
            image.path,
            None if scores is None else scores.float().cpu().numpy(),
            groups,
        )
        if not self.pictures and self.writer is None:
            return result
        assert image.array is not None
        picture = draw_segmentation(image.array[..., ::-1], mask, self.classes, groups=groups)
        if self.writer is not None:
            self.writer.write(result, picture)
        return replace(result, picture=picture) if self.pictures else result
