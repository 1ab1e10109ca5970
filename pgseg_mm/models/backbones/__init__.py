"""Image encoders."""

from .pgseg_vit import PGSegViT

__all__ = ['PGSegViT']
