"""Hooks of mmengine's Runner."""

from .checked_loading_hook import CheckedLoadingHook
from .compile_hook import CompileHook
from .data_state_hook import DataStateHook
from .finite_loss_hook import FiniteLossHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .step_seed_hook import StepSeedHook
from .visualization_hook import PGSegVisualizationHook
from .vocabulary_hook import VocabularyHook

__all__ = [
    'CheckedLoadingHook',
    'CompileHook',
    'DataStateHook',
    'FiniteLossHook',
    'PGSegVisualizationHook',
    'SafeCheckpointHook',
    'StepSeedHook',
    'VocabularyHook',
]
