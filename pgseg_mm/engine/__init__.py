"""What runs beside the model: hooks, loops, optimizers and schedulers."""

from .hooks import (
    CompileHook,
    DataStateHook,
    FiniteLossHook,
    SafeCheckpointHook,
    StepSeedHook,
    StopSignalHook,
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
    'StopSignalHook',
    'VocabularyHook',
    'WarmupCosineLR',
]
