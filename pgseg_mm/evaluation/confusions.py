"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Counts = NDArray[np.int64]


class Confusion(NamedTuple):
    """A class that is taken for another."""

    label: str
    """What it is."""
    prediction: str
    """What it is taken for."""
    share: float
    """Part of the class's pixels, from 0 to 1."""
    pixels: int


class ConfusionCounts(NamedTuple):
    """Pixels by label and prediction, without those that are ignored.

    Only pairs that occur are held, so that thousands of classes need no table of all pairs.
    """

    classes: tuple[str, ...]
    """Names of the K classes."""
    labels: Counts
    """(P,), labels of the pairs, in order."""
    predictions: Counts
    """(P,), their predictions."""
    pixels: Counts
    """(P,), how many pixels have both."""

    @classmethod
    def of_images(cls, classes: Sequence[str], images: Sequence[Counts]) -> ConfusionCounts:
        """Add up what :func:`count_pairs` counted.

        Args:
            classes: Names of the K classes.
            images: Pairs of each image, (2, U).
        """
        pairs, pixels = np.concatenate([np.zeros((2, 0), np.int64), *images], axis=1)
        unique, index = np.unique(pairs, return_inverse=True)
        totals = np.zeros(len(unique), np.int64)
        np.add.at(totals, index, pixels)
        return cls(tuple(classes), unique // len(classes), unique % len(classes), totals)

    @property
    def areas(self) -> NDArray[np.int64]:
        """(3, K): pixels of each class that are right, that are predicted, that are labelled."""
        right = np.where(self.labels == self.predictions, self.pixels, 0)
        areas = np.zeros((3, len(self.classes)), np.int64)
        np.add.at(areas[0], self.labels, right)
        np.add.at(areas[1], self.predictions, self.pixels)
        np.add.at(areas[2], self.labels, self.pixels)
        return areas

    @property
    def class_iou(self) -> NDArray[np.float64]:
        """(K,) in percent, NaN for classes that are neither in the labels nor predicted."""
        right, predicted, labelled = self.areas
        union = predicted + labelled - right
        return np.where(union > 0, 100 * right / np.maximum(union, 1), np.nan)

    @property
    def miou(self) -> float:
        """Mean IoU in percent over the classes that are in the labels or predicted.

        NaN if no pixel was counted.
        """
        occurring = self.class_iou[~np.isnan(self.class_iou)]
        return float(occurring.mean()) if len(occurring) else float('nan')

    @property
    def accuracy(self) -> float:
        """Pixels that are right, in percent; NaN if no pixel was counted."""
        total = int(self.pixels.sum())
        return 100 * int(self.areas[0].sum()) / total if total else float('nan')

    def largest(self, number: int) -> list[Confusion]:
        """Confusions of the largest share of their class, the largest first.

        Args:
            number: How many at most.
        """
        wrong = np.flatnonzero(self.labels != self.predictions)
        shares = self.pixels[wrong] / np.maximum(self.areas[2][self.labels[wrong]], 1)
        order = np.argsort(-shares, kind='stable')[:number]
        return [
            Confusion(
                self.classes[self.labels[pair]],
                self.classes[self.predictions[pair]],
                float(share),
                int(self.pixels[pair]),
            )
            for pair, share in zip(wrong[order], shares[order], strict=True)
        ]

    def matrix(self, rows: Sequence[int]) -> NDArray[np.float64]:
        """(R, R) shares of the pixels of some classes, by what they are taken for.

        Args:
            rows: Their labels. What is taken for any other class is left out.
        """
        place = np.full(len(self.classes), -1)
        place[list(rows)] = np.arange(len(rows))
        y, x = place[self.labels], place[self.predictions]
        inside = (y >= 0) & (x >= 0)
        shares = np.zeros((len(rows), len(rows)))
        areas = np.maximum(self.areas[2][self.labels[inside]], 1)
        shares[y[inside], x[inside]] = self.pixels[inside] / areas
        return shares


def count_pairs(prediction: Tensor, label: Tensor, num_classes: int) -> Counts:
    """Pixels of an image by label and prediction.

    Args:
        prediction: (H, W), int64, from 0 to ``num_classes`` - 1.
        label: (H, W), the same, or negative for pixels that are ignored.
        num_classes: Number of classes K.

    Returns:
        (2, U): ``label * K + prediction`` of the pairs that occur, and their pixels.
    """
    counted = label >= 0
    pairs, pixels = torch.unique(
        label[counted] * num_classes + prediction[counted], return_counts=True
    )
    return np.asarray(torch.stack([pairs, pixels]).cpu().numpy())
