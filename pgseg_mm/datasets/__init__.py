"""Data sets and transforms of image-text training, registered with mmseg."""

from .image_text import ImageTextDataset
from .transforms import NounPrompts, PackImageTextInputs, TokenizeCaption

__all__ = ['ImageTextDataset', 'NounPrompts', 'PackImageTextInputs', 'TokenizeCaption']
