"""Mean IoU over named subsets of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import MMLogger, print_log
from mmseg.registry import METRICS

from .zero_shot_iou_metric import ZeroShotIoUMetric


@METRICS.register_module()
class SubsetIoUMetric(ZeroShotIoUMetric):
    """The IoU metric with the mean IoU of subsets of the classes beside it.

    For each subset it reports ``mIoU_<subset>``: the mean, in percent, over those of its classes
    that occur in the labels or the predictions.

    Args:
        subsets: For each subset its class names, or the path of a text file with one name a line.
        **kwargs: Arguments of :class:`ZeroShotIoUMetric`.

    Raises:
        FileNotFoundError: A subset's file does not exist.
        ValueError: A subset is empty or, once the data set's classes are known, names another
            class.

    Examples:
        >>> val_evaluator = dict(
        ...     type='SubsetIoUMetric',
        ...     iou_metrics=['mIoU'],
        ...     subsets=dict(animals=['cat', 'dog'], seen='data/seen_classes.txt'))
    """

    def __init__(self, subsets: Mapping[str, str | Sequence[str]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.subsets = {name: _class_names(name, given) for name, given in subsets.items()}
        self._labels: dict[str, list[int]] = {}

    def _check_classes(self, classes: list[str]) -> None:
        super()._check_classes(classes)
        classes = [name.strip() for name in classes]  # as those of the subsets: mmseg has 'bed '
        for subset, names in self.subsets.items():
            unknown = [name for name in names if name not in classes]
            if unknown:
                raise ValueError(
                    f'Subset {subset!r} names classes that the data set does not have: {unknown}; '
                    'use names from its metainfo.'
                )
            self._labels[subset] = [classes.index(name) for name in names]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics of the whole data set and of the subsets.

        Args:
            results: The areas :meth:`process` collected, one array an image.

        Returns:
            The metrics of :class:`ZeroShotIoUMetric` and ``mIoU_<subset>`` for each subset, in
            percent; nan for a subset of which no class occurs.
        """
        metrics = super().compute_metrics(results)
        if self.format_only:
            return metrics
        assert self.areas is not None
        ious = self.total_area_to_metrics(*self.areas, ['mIoU'], self.nan_to_num)['IoU']
        for subset, labels in self._labels.items():
            subset_ious = ious[labels]
            occurring = subset_ious[~np.isnan(subset_ious)]
            mean = np.round(occurring.mean() * 100, 2) if occurring.size else np.nan
            metrics[f'mIoU_{subset}'] = mean
            print_log(
                f'mIoU of {subset} ({occurring.size} of {len(labels)} classes occur): {mean:.2f}',
                logger=MMLogger.get_current_instance(),
            )
        return metrics


def _class_names(subset: str, given: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        path = Path(given)
        if not path.is_file():
            raise FileNotFoundError(
                f'File {path} of subset {subset!r} does not exist; '
                'give a text file with one class name a line, or a list of names.'
            )
        given = path.read_text(encoding='utf-8-sig').splitlines()
    names = tuple(dict.fromkeys(name.strip() for name in given if name.strip()))
    if not names:
        raise ValueError(f'Subset {subset!r} names no class; give at least one.')
    return names
