"""Transforms of image-text pairs."""

from .formatting import PackImageTextInputs
from .text import TokenizeCaption

__all__ = ['PackImageTextInputs', 'TokenizeCaption']
