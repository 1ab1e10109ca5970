"""Decode heads."""

from .pgseg_head import PGSegHead

__all__ = ['PGSegHead']
