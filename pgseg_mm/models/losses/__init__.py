"""Losses between images, texts, groups and prototypes."""

from .contrastive_loss import ImageTextContrastiveLoss
from .matching import PendingMatch, match_prototypes, start_matching
from .npr_loss import NPRLoss, NPRPairs
from .temperature import LearnedTemperature

__all__ = [
    'ImageTextContrastiveLoss',
    'LearnedTemperature',
    'NPRLoss',
    'NPRPairs',
    'PendingMatch',
    'match_prototypes',
    'start_matching',
]
