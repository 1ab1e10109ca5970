"""What is said where a run is refused, or cannot go on, for reasons outside the program."""

from __future__ import annotations

MAX_LENGTH = 580
"""Characters of a message at most, whatever a config holds."""


def shortened(message: str) -> str:
    """A message whose middle is left out if it is too long."""
    if len(message) <= MAX_LENGTH:
        return message
    half = (MAX_LENGTH - 5) // 2
    return f'{message[:half]} ... {message[-half:]}'


def own_words(error: Exception, message: str) -> str:
    """The message of an error that a worker of a data loader has raised, without its traceback."""
    return message.rsplit(f'{type(error).__name__}: ', 1)[-1].strip()


class PreflightError(ValueError):
    """A run was refused before its first step, because of something that was known by then."""

    def __init__(self, message: str) -> None:
        super().__init__(shortened(message))


class RunError(Exception):
    """A run cannot go on because of its data, settings or machine: the message is all there is."""

    def __init__(self, message: str) -> None:
        super().__init__(shortened(own_words(self, message)))


class UnusableDataError(RunError, RuntimeError):
    """So much of the training data cannot be used that training on it makes no sense."""


class BrokenSampleError(RunError, ValueError):
    """A sample cannot be used, in a run that skips none."""


class MissingSampleError(RunError, FileNotFoundError):
    """The image of a sample is missing, in a run that skips none."""


class NotFiniteError(RunError, FloatingPointError):
    """The loss is not finite."""


class ModelUnavailableError(RunError, RuntimeError):
    """The config or the weights of a model cannot be downloaded, nor have they been before."""
