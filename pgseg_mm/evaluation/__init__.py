"""Evaluation metrics, registered with mmseg."""

from .subset_iou_metric import SubsetIoUMetric
from .zero_shot_iou_metric import ClassAreas, ZeroShotIoUMetric

__all__ = ['ClassAreas', 'SubsetIoUMetric', 'ZeroShotIoUMetric']
