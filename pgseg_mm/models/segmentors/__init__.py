"""Segmentors."""

from .pgseg import PGSeg
from .pgseg_tta import PGSegTTAModel

__all__ = ['PGSeg', 'PGSegTTAModel']
