"""Evaluation metrics, registered with mmseg."""

from .confusions import Confusion, ConfusionCounts, count_pairs
from .image_text_retrieval_metric import ImageTextRetrievalMetric
from .subset_iou_metric import SubsetIoUMetric
from .zero_shot_iou_metric import ClassAreas, LabelMapError, ZeroShotIoUMetric, check_label_map

__all__ = [
    'ClassAreas',
    'Confusion',
    'ConfusionCounts',
    'ImageTextRetrievalMetric',
    'LabelMapError',
    'SubsetIoUMetric',
    'ZeroShotIoUMetric',
    'check_label_map',
    'count_pairs',
]
