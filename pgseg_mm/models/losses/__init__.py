"""Losses between images, texts, groups and prototypes."""

from .contrastive_loss import ImageTextContrastiveLoss
from .matching import match_prototypes
from .npr_loss import NPRLoss
from .temperature import LearnedTemperature

__all__ = ['ImageTextContrastiveLoss', 'LearnedTemperature', 'NPRLoss', 'match_prototypes']
