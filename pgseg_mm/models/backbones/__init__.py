"""Image encoders."""

from .clip_dense_vit import CLIPDenseViT
from .open_clip_group_vit import OpenCLIPGroupViT
from .pgseg_vit import PGSegViT
from .proxy_clip_vit import ProxyCLIPViT

__all__ = ['CLIPDenseViT', 'OpenCLIPGroupViT', 'PGSegViT', 'ProxyCLIPViT']
