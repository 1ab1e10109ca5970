"""Data sets and transforms of image-text training, registered with mmseg."""

from .image_text import ImageTextDataset
from .transforms import PackImageTextInputs, TokenizeCaption

__all__ = ['ImageTextDataset', 'PackImageTextInputs', 'TokenizeCaption']
