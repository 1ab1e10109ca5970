"""Losses between images, texts, groups and prototypes."""

from .contrastive_loss import ImageTextContrastiveLoss
from .late_interaction_loss import LateInteractionLoss
from .matching import PendingMatch, match_prototypes, start_matching
from .multi_label_contrastive_loss import MultiLabelContrastiveLoss
from .npr_loss import NPRLoss, NPRPairs
from .region_text_contrast import RegionTextContrast
from .temperature import LearnedTemperature

__all__ = [
    'ImageTextContrastiveLoss',
    'LateInteractionLoss',
    'LearnedTemperature',
    'MultiLabelContrastiveLoss',
    'NPRLoss',
    'NPRPairs',
    'PendingMatch',
    'RegionTextContrast',
    'match_prototypes',
    'start_matching',
]
