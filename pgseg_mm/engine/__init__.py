"""What runs beside the model: hooks, loops and schedulers."""

from .hooks import (
    DataStateHook,
    FiniteLossHook,
    SafeCheckpointHook,
    StepSeedHook,
    VocabularyHook,
)
from .loops import ResumableEpochLoop, ResumableIterLoop
from .schedulers import WarmupCosineLR

__all__ = [
    'DataStateHook',
    'FiniteLossHook',
    'ResumableEpochLoop',
    'ResumableIterLoop',
    'SafeCheckpointHook',
    'StepSeedHook',
    'VocabularyHook',
    'WarmupCosineLR',
]
