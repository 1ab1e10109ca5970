"""Transforms of image-text pairs."""

from .formatting import PackImageTextInputs
from .loading import DecodeImage
from .noun_prompts import NounPrompts
from .text import TokenizeCaption

__all__ = ['DecodeImage', 'NounPrompts', 'PackImageTextInputs', 'TokenizeCaption']
