"""Transforms of image-text pairs."""

from .formatting import PackImageTextInputs
from .noun_prompts import NounPrompts
from .text import TokenizeCaption

__all__ = ['NounPrompts', 'PackImageTextInputs', 'TokenizeCaption']
