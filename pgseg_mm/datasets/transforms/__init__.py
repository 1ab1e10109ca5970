"""Transforms of image-text pairs, and of label maps where mmseg has none."""

from .formatting import PackImageTextInputs
from .loading import DecodeImage
from .noun_prompts import NounPrompts
from .text import TokenizeCaption
from .wide_annotations import LoadWideAnnotations

__all__ = [
    'DecodeImage',
    'LoadWideAnnotations',
    'NounPrompts',
    'PackImageTextInputs',
    'TokenizeCaption',
]
