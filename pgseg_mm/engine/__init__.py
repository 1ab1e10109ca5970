"""What runs beside the model: hooks, loops, optimizers and schedulers."""

from .diagnosis import Diagnosis, diagnose
from .hooks import (
    CompileHook,
    DataStateHook,
    FiniteLossHook,
    PGSegVisualizationHook,
    PreflightHook,
    SafeCheckpointHook,
    ScheduleHook,
    StepSeedHook,
    StopSignalHook,
    VocabularyHook,
    WeightsHook,
)
from .loops import ResumableEpochLoop, ResumableIterLoop
from .optimizers import BackboneLayerDecay
from .preflight import PreflightError
from .schedulers import WarmupCosineLR

__all__ = [
    'BackboneLayerDecay',
    'CompileHook',
    'DataStateHook',
    'Diagnosis',
    'FiniteLossHook',
    'PGSegVisualizationHook',
    'PreflightError',
    'PreflightHook',
    'ResumableEpochLoop',
    'ResumableIterLoop',
    'SafeCheckpointHook',
    'ScheduleHook',
    'StepSeedHook',
    'StopSignalHook',
    'VocabularyHook',
    'WarmupCosineLR',
    'WeightsHook',
    'diagnose',
]
