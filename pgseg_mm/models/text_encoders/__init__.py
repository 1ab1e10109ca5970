"""Text encoders."""

from .open_clip_text_encoder import OpenCLIPTextEncoder
from .pgseg_text_transformer import PGSegTextTransformer, TextFeatures

__all__ = ['OpenCLIPTextEncoder', 'PGSegTextTransformer', 'TextFeatures']
