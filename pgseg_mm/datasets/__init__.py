"""Data sets and transforms of training and evaluation, registered with mmseg."""

from .pairs.image_text import ImageTextDataset
from .pairs.image_text_retrieval import ImageTextRetrievalDataset
from .pairs.web_image_text import WebImageTextDataset
from .sampling.samplers import ResumableSampler
from .sampling.seeded_dataset import SeededDataset
from .transforms import (
    DecodeImage,
    LoadWideAnnotations,
    NamePrompts,
    NounPrompts,
    PackImageTextInputs,
    ResizeAnyShape,
    TokenizeCaption,
)
from .zero_shot.coco_object import COCOObjectDataset
from .zero_shot.davis import DAVISMainObjectDataset
from .zero_shot.imagenet_s import (
    ImageNetS50Dataset,
    ImageNetS300Dataset,
    ImageNetSDataset,
)
from .zero_shot.lvis import LVISDataset

__all__ = [
    'COCOObjectDataset',
    'DAVISMainObjectDataset',
    'DecodeImage',
    'ImageNetS300Dataset',
    'ImageNetS50Dataset',
    'ImageNetSDataset',
    'ImageTextDataset',
    'ImageTextRetrievalDataset',
    'LVISDataset',
    'LoadWideAnnotations',
    'NamePrompts',
    'NounPrompts',
    'PackImageTextInputs',
    'ResizeAnyShape',
    'ResumableSampler',
    'SeededDataset',
    'TokenizeCaption',
    'WebImageTextDataset',
]
