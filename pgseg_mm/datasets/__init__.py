"""Data sets and transforms of training and evaluation, registered with mmseg."""

from .coco_object import COCOObjectDataset
from .image_text import ImageTextDataset
from .imagenet_s import ImageNetS50Dataset, ImageNetS300Dataset, ImageNetSDataset
from .lvis import LVISDataset
from .samplers import ResumableSampler
from .seeded_dataset import SeededDataset
from .transforms import (
    DecodeImage,
    LoadWideAnnotations,
    NounPrompts,
    PackImageTextInputs,
    TokenizeCaption,
)
from .web_image_text import WebImageTextDataset

__all__ = [
    'COCOObjectDataset',
    'DecodeImage',
    'ImageNetS300Dataset',
    'ImageNetS50Dataset',
    'ImageNetSDataset',
    'ImageTextDataset',
    'LVISDataset',
    'LoadWideAnnotations',
    'NounPrompts',
    'PackImageTextInputs',
    'ResumableSampler',
    'SeededDataset',
    'TokenizeCaption',
    'WebImageTextDataset',
]
