"""What runs beside the model: hooks, loops and schedulers."""

from .hooks import (
    CompileHook,
    DataStateHook,
    FiniteLossHook,
    SafeCheckpointHook,
    StepSeedHook,
    VocabularyHook,
)
from .loops import ResumableEpochLoop, ResumableIterLoop
from .schedulers import WarmupCosineLR

__all__ = [
    'CompileHook',
    'DataStateHook',
    'FiniteLossHook',
    'ResumableEpochLoop',
    'ResumableIterLoop',
    'SafeCheckpointHook',
    'StepSeedHook',
    'VocabularyHook',
    'WarmupCosineLR',
]
