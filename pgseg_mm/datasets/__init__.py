"""Data sets and transforms of image-text training, registered with mmseg."""

from .image_text import ImageTextDataset
from .samplers import ResumableSampler
from .seeded_dataset import SeededDataset
from .transforms import NounPrompts, PackImageTextInputs, TokenizeCaption

__all__ = [
    'ImageTextDataset',
    'NounPrompts',
    'PackImageTextInputs',
    'ResumableSampler',
    'SeededDataset',
    'TokenizeCaption',
]
