"""Evaluation metrics, registered with mmseg."""

from .subset_iou_metric import SubsetIoUMetric
from .zero_shot_iou_metric import ClassAreas, LabelMapError, ZeroShotIoUMetric

__all__ = ['ClassAreas', 'LabelMapError', 'SubsetIoUMetric', 'ZeroShotIoUMetric']
