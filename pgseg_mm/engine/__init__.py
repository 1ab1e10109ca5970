"""What runs beside the model: hooks, loops, optimizers and schedulers."""

from .hooks import (
    CompileHook,
    DataStateHook,
    FiniteLossHook,
    SafeCheckpointHook,
    StepSeedHook,
    VocabularyHook,
)
from .loops import ResumableEpochLoop, ResumableIterLoop
from .optimizers import BackboneLayerDecay
from .schedulers import WarmupCosineLR

__all__ = [
    'BackboneLayerDecay',
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
