"""What fails while a run is built from its config, in words."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import mmengine.runner
from mmengine.config import Config
from mmseg.registry import RUNNERS

from pgseg_mm.errors import PreflightError, RunError
from pgseg_mm.evaluation import LabelMapError
from pgseg_mm.files.reading import DamagedFileError, FileAccessError
from pgseg_mm.messages import first_line
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.work_folders import FolderInUseError

TOLD = (
    LabelMapError,
    CheckpointError,
    DamagedFileError,
    FileAccessError,
    FolderInUseError,
    PreflightError,
    RunError,
    MemoryError,
)
"""Errors with a sentence of their own."""
OF_SETTINGS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Errors by which parts of a run refuse their settings."""
BARE = (ArithmeticError, AssertionError, AttributeError, LookupError)
"""Those that say little without their place."""
OUT_OF_MEMORY = 'out of memory'


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Turn an error into the refusal of a run; one that has a sentence of its own stays.

    Args:
        what: What fails, such as ``'the optimizer cannot be built from the config'``.

    Raises:
        PreflightError: With the kind and text of the error.
    """
    try:
        yield
    except TOLD:
        raise
    except OF_SETTINGS as error:
        if OUT_OF_MEMORY in str(error):
            raise
        raise PreflightError(f'{what}: {reason_of(error)}') from error


def reason_of(error: BaseException) -> str:
    """Kind and text of an error, and where it was raised if it says little by itself."""
    text = f'{type(error).__name__}: {first_line(error)}'
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, BARE) or not frames:
        return text
    return f'{text} (in {frames[-1].name}, {Path(frames[-1].filename).name}:{frames[-1].lineno})'


def build_runner(cfg: Config) -> mmengine.runner.Runner:
    """The Runner of a config, whose optimizer and schedules are built in the same words.

    Args:
        cfg: The config.

    Raises:
        PreflightError: If a part is unknown or refuses its settings, now or when training starts.
    """
    with telling('the config cannot be built'):
        runner: Any = (
            RUNNERS.build(cfg) if 'runner_type' in cfg else mmengine.runner.Runner.from_cfg(cfg)
        )
    for name, what in (
        ('build_optim_wrapper', 'the optim_wrapper'),
        ('build_param_scheduler', 'the param_scheduler'),
    ):
        if hasattr(runner, name):  # a FlexibleRunner leaves it to its strategy
            setattr(runner, name, _telling(getattr(runner, name), f'{what} cannot be built'))
    return runner


def _telling(build: Callable[..., Any], what: str) -> Callable[..., Any]:
    @wraps(build)
    def told(*args: Any, **kwargs: Any) -> Any:
        with telling(what):
            return build(*args, **kwargs)

    return told
