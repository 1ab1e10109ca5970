"""Image encoders."""

from .open_clip_group_vit import OpenCLIPGroupViT
from .pgseg_vit import PGSegViT

__all__ = ['OpenCLIPGroupViT', 'PGSegViT']
