"""Hooks of mmengine's Runner."""

from .checked_loading_hook import CheckedLoadingHook
from .compile_hook import CompileHook
from .data_state_hook import DataStateHook
from .finite_loss_hook import FiniteLossHook
from .preflight_hook import PreflightHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .schedule_hook import ScheduleHook
from .step_seed_hook import StepSeedHook
from .stop_signal_hook import StopSignalHook
from .visualization_hook import PGSegVisualizationHook
from .vocabulary_hook import VocabularyHook
from .weights_hook import WeightsHook

__all__ = [
    'CheckedLoadingHook',
    'CompileHook',
    'DataStateHook',
    'FiniteLossHook',
    'PGSegVisualizationHook',
    'PreflightHook',
    'SafeCheckpointHook',
    'ScheduleHook',
    'StepSeedHook',
    'StopSignalHook',
    'VocabularyHook',
    'WeightsHook',
]
