"""Hooks of mmengine's Runner."""

from .compile_hook import CompileHook
from .data_state_hook import DataStateHook
from .finite_loss_hook import FiniteLossHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .step_seed_hook import StepSeedHook
from .stop_signal_hook import StopSignalHook
from .visualization_hook import PGSegVisualizationHook
from .vocabulary_hook import VocabularyHook

__all__ = [
    'CompileHook',
    'DataStateHook',
    'FiniteLossHook',
    'PGSegVisualizationHook',
    'SafeCheckpointHook',
    'StepSeedHook',
    'StopSignalHook',
    'VocabularyHook',
]
