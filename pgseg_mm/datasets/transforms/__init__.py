"""Transforms of images, captions, and label maps where mmseg has none."""

from .array_or_file import LoadImageFromNDArray
from .formatting import PackImageTextInputs
from .loading import DecodeImage, LoadKnownImage
from .name_prompts import NamePrompts
from .noun_prompts import NounPrompts
from .resize import ResizeAnyShape
from .text import TokenizeCaption
from .wide_annotations import LoadLabelMap, LoadWideAnnotations

__all__ = [
    'DecodeImage',
    'LoadImageFromNDArray',
    'LoadKnownImage',
    'LoadLabelMap',
    'LoadWideAnnotations',
    'NamePrompts',
    'NounPrompts',
    'PackImageTextInputs',
    'ResizeAnyShape',
    'TokenizeCaption',
]
