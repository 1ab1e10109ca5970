"""What runs beside the model: hooks."""

from .hooks import VocabularyHook

__all__ = ['VocabularyHook']
