"""Decode heads."""

from .dense_clip_head import DenseCLIPHead
from .pgseg_head import PGSegHead

__all__ = ['DenseCLIPHead', 'PGSegHead']
