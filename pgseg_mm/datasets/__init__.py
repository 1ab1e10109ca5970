"""Data sets and transforms of image-text training, registered with mmseg."""

from .image_text import ImageTextDataset
from .samplers import ResumableSampler
from .seeded_dataset import SeededDataset
from .transforms import DecodeImage, NounPrompts, PackImageTextInputs, TokenizeCaption
from .web_image_text import WebImageTextDataset

__all__ = [
    'DecodeImage',
    'ImageTextDataset',
    'NounPrompts',
    'PackImageTextInputs',
    'ResumableSampler',
    'SeededDataset',
    'TokenizeCaption',
    'WebImageTextDataset',
]
