"""Text encoders."""

from .pgseg_text_transformer import PGSegTextTransformer, TextFeatures

__all__ = ['PGSegTextTransformer', 'TextFeatures']
