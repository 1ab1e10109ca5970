"""Has moved to :mod:`pgseg_mm.serialization.runner_checkpoints`; goes with the next release."""

from pgseg_mm.serialization.runner_checkpoints import load_checkpoints_safely

__all__ = ['load_checkpoints_safely']
