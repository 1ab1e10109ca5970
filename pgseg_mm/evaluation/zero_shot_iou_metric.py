"""IoU over any number of classes and pixels, and predictions in a benchmark's own label ids."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import print_log
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from PIL import Image
from torch import Tensor

LARGEST_ID = 65535


class LabelMapError(ValueError):
    """A label map is not of its image, or has a label that its data set does not have."""


class ClassAreas(NamedTuple):
    """Pixels of each class over a data set, without those that are ignored; (K,), float64."""

    intersect: Tensor
    """Predicted rightly."""
    union: Tensor
    """Predicted or labelled as the class."""
    prediction: Tensor
    label: Tensor


@METRICS.register_module()
class ZeroShotIoUMetric(IoUMetric):
    """mmseg's IoU metric for the benchmarks of zero-shot segmentation.

    What differs: areas are exact integers, while mmseg adds them up in 32 bits, which loses pixels
    of large classes; a label that is neither a class nor ignored is an error; and predictions are
    written in the label ids of the benchmark, of 8 or 16 bits, in folders like those of the images.

    Args:
        label_ids: For each class the id that it is written as. By default that is its index, plus 1
            where the data set has ``reduce_zero_label``. With ids over 255 the files have 16 bits.
        rgb: Whether to write RGB images with the id red + 256 * green, as ImageNet-S has them.
        image_root: Folder of the images. A prediction has the same path below ``output_dir`` as its
            image below this folder, or its image's name alone if there is none.
        **kwargs: Arguments of :class:`mmseg.evaluation.IoUMetric`.

    Attributes:
        areas: :class:`ClassAreas` of the last evaluation, on the first rank.

    Raises:
        TypeError: There is no such argument.
        ValueError: An id is not from 0 to 65535; there are more or fewer ids than classes; a label
            map has another size than its image, or a label that is neither a class nor ignored; or
            two images would have their predictions in one file.

    Examples:
        >>> test_evaluator = dict(
        ...     type='ZeroShotIoUMetric', ignore_index=1000, rgb=True, output_dir='predictions')
    """

    def __init__(
        self,
        label_ids: Sequence[int] | None = None,
        rgb: bool = False,
        image_root: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        known = inspect.signature(IoUMetric.__init__).parameters
        if unknown := sorted(kwargs.keys() - known.keys()):  # mmseg's would drop them
            raise TypeError(
                f"{type(self).__name__} takes no argument {', '.join(unknown)}; mmseg's IoUMetric "
                f'has {", ".join(list(known)[1:-1])}'
            )
        super().__init__(**kwargs)
        self.label_ids = None if label_ids is None else np.asarray(label_ids)
        ids = np.asarray(label_ids or 0)
        if ids.min() < 0 or ids.max() > LARGEST_ID:
            raise ValueError(f'label_ids must be from 0 to {LARGEST_ID}, got {label_ids}')
        self.rgb = rgb
        self.image_root = None if image_root is None else Path(image_root)
        self.areas: ClassAreas | None = None
        self._written: dict[Path, str] = {}

    @property
    def dataset_meta(self) -> dict | None:
        """Meta information of the data set; ``classes`` names what is evaluated."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        if not (dataset_meta or {}).get('classes'):
            raise ValueError(
                f'{type(self).__name__} needs the classes of the data set, which names none; set '
                'metainfo=dict(classes=...) in its config'
            )
        self._check_classes(list(dataset_meta['classes']))
        self._dataset_meta = dataset_meta

    def _check_classes(self, classes: list[str]) -> None:
        """Refuse a data set whose classes do not fit the settings."""
        if 0 <= self.ignore_index < len(classes):
            print_log(
                f'ignore_index={self.ignore_index} is the label of {classes[self.ignore_index]!r}, '
                'one of the classes: its pixels count nowhere. Choose another one unless that is '
                'meant.',
                logger='current',
                level=logging.WARNING,
            )
        if self.label_ids is not None and len(self.label_ids) != len(classes):
            raise ValueError(
                f'label_ids has {len(self.label_ids)} ids, but the data set has {len(classes)} '
                'classes; give one id for each class'
            )

    def process(self, data_batch: dict, data_samples: Sequence[Mapping]) -> None:
        """Count the pixels of a batch, and write its predictions if there is an ``output_dir``.

        Args:
            data_batch: Not used.
            data_samples: Results of the model, with ``pred_sem_seg``, ``gt_sem_seg`` unless
                ``format_only``, and ``img_path`` where predictions are written.
        """
        for sample in data_samples:
            prediction = _as_map(sample['pred_sem_seg']).long()
            if not self.format_only:
                label = _as_map(sample['gt_sem_seg']).to(prediction)
                self.results.append(self._count(prediction, label, sample))
            if self.output_dir is not None:
                self._write(prediction.cpu().numpy(), sample)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics of the whole data set.

        Args:
            results: What :meth:`process` collected: for each image an array (4, U) with the U
                classes that occur, and their areas of intersection, prediction and label.

        Returns:
            The metrics of :class:`mmseg.evaluation.IoUMetric`.
        """
        if self.format_only:
            return super().compute_metrics(results)
        assert self.dataset_meta is not None
        classes, *counts = np.concatenate(results, axis=1)
        intersect, prediction, label = (
            torch.from_numpy(
                np.bincount(classes, weights=area, minlength=len(self.dataset_meta['classes']))
            )
            for area in counts
        )
        self.areas = ClassAreas(intersect, prediction + label - intersect, prediction, label)
        return super().compute_metrics([self.areas])

    def _count(self, prediction: Tensor, label: Tensor, sample: Mapping) -> np.ndarray:
        assert self.dataset_meta is not None
        num_classes = len(self.dataset_meta['classes'])
        check_label_map(label, prediction.shape, num_classes, self.ignore_index, sample)
        counted = label != self.ignore_index
        prediction, label = prediction[counted], label[counted]
        areas = [
            torch.bincount(classes, minlength=num_classes)
            for classes in (prediction[prediction == label], prediction, label)
        ]
        if len(areas[1]) > num_classes:
            image = sample.get('img_path')
            raise ValueError(
                _unknown_label(
                    f'prediction of {image}', len(areas[1]) - 1, num_classes, self.ignore_index
                )
            )
        occurring = (areas[1] + areas[2]).nonzero().squeeze(1)
        rows = [occurring, *(area[occurring] for area in areas)]
        return torch.stack(rows).cpu().numpy()

    def _write(self, prediction: np.ndarray, sample: Mapping) -> None:
        path = self._output_path(sample['img_path'])
        ids = self.label_ids
        if ids is None:
            assert self.dataset_meta is not None
            first = int(sample.get('reduce_zero_label', False))
            ids = first + np.arange(len(self.dataset_meta['classes']))
        written = ids.astype(np.uint16)[prediction]
        if self.rgb:
            pixels = np.stack([written % 256, written // 256, np.zeros_like(written)], axis=-1)
            pixels = pixels.astype(np.uint8)
        else:
            pixels = written.astype(np.uint8) if ids.max() < 256 else written
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    def check_outputs(self, images: Iterable[str]) -> None:
        """Look whether each image's prediction has a file of its own.

        Args:
            images: Paths of all images.

        Raises:
            ValueError: Two of them would have the same.
        """
        for image in images:
            self._output_path(image)

    def _output_path(self, image: str) -> Path:
        name = Path(image)
        if self.image_root is not None and name.is_relative_to(self.image_root):
            name = name.relative_to(self.image_root)
        else:
            name = Path(name.name)
        path = Path(self.output_dir) / name.with_suffix('.png')
        earlier = self._written.setdefault(path, image)
        if earlier != image:
            raise ValueError(
                f'the predictions of {earlier} and {image} would be the same file {path}; set '
                'image_root of the metric to the folder that both are in'
            )
        return path


def check_label_map(
    label: Tensor, size: Sequence[int], num_classes: int, ignore_index: int, sample: Any
) -> None:
    """Refuse a label map that does not belong to its image or its classes.

    Args:
        label: (H, W) label map.
        size: (height, width) of the image.
        num_classes: Number of classes.
        ignore_index: Label of pixels that do not count.
        sample: Sample of the image, which ``get`` asks for the paths of both.

    Raises:
        LabelMapError: It has another size, or a label that is neither a class nor ignored.
    """
    image = sample.get('img_path')
    file = sample.get('seg_map_path')
    path = 'label map' if file is None else f'label map {file}'
    if tuple(label.shape) != tuple(size):
        raise LabelMapError(
            f'the {path} of {image} is of {tuple(label.shape)} pixels (height, width) and '
            f'the image of {tuple(size)}; they do not belong together'
        )
    largest = int(label.masked_fill(label == ignore_index, 0).max()) if label.numel() else 0
    if largest >= num_classes:
        raise LabelMapError(
            _unknown_label(f'{path} of {image}', largest, num_classes, ignore_index)
        )


def _unknown_label(what: str, label: int, num_classes: int, ignore_index: int) -> str:
    return (
        f'the {what} has the label {label}, which is neither one of the {num_classes} classes nor '
        f'ignore_index={ignore_index}; prepare the label maps as the data set expects them'
    )


def _as_map(pixels: Mapping) -> Tensor:
    """(H, W) labels of a sample's (1, H, W) or (H, W)."""
    return pixels['data'].reshape(pixels['data'].shape[-2:])
