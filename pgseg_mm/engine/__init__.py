"""What runs beside the model: hooks and schedulers."""

from .hooks import VocabularyHook
from .schedulers import WarmupCosineLR

__all__ = ['VocabularyHook', 'WarmupCosineLR']
