"""Evaluation metrics, registered with mmseg."""

from .image_text_retrieval_metric import ImageTextRetrievalMetric
from .subset_iou_metric import SubsetIoUMetric
from .zero_shot_iou_metric import ClassAreas, LabelMapError, ZeroShotIoUMetric

__all__ = [
    'ClassAreas',
    'ImageTextRetrievalMetric',
    'LabelMapError',
    'SubsetIoUMetric',
    'ZeroShotIoUMetric',
]
