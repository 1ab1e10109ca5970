"""NPR as an auxiliary loss for heads that have queries or class tokens."""

from .npr_head_mixin import NPRHeadMixin
from .npr_mask_heads import NPRMask2FormerHead, NPRMaskFormerHead
from .npr_segmenter_head import NPRSegmenterHead
from .query_npr import QueryNPR

__all__ = [
    'NPRHeadMixin',
    'NPRMask2FormerHead',
    'NPRMaskFormerHead',
    'NPRSegmenterHead',
    'QueryNPR',
]
