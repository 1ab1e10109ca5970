"""Segmentors."""

from .pgseg import PGSeg

__all__ = ['PGSeg']
