"""Where the file of a checkpoint lies, whatever the checkpoint was given as.

Paths are known here. All else, such as names on a hub, is found by a function that a room above
this one has given (:func:`set_locator`; it is :func:`pgseg_mm.checkpoints.sources.make_local`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from os import PathLike
from pathlib import Path

REMOTE = ('http://', 'https://')
HUB = 'hf-hub:'
"""What names of models on the Hugging Face Hub begin with, as in open_clip and timm."""

_locators: list[Callable[[str], Path]] = []


def set_locator(locator: Callable[[str], Path]) -> None:
    """Let a function find checkpoints that are no files.

    Args:
        locator: Takes what was given and returns the path of a file in this project's format, or a
            path where nothing is; raises a :class:`.loading.CheckpointError` otherwise.
    """
    _locators[:] = [locator]


def expanded(path: str | PathLike[str]) -> Path:
    """A path in which ``~`` and ``~user`` stand for home folders, if there are such."""
    return Path(os.path.expanduser(path))


def locate(source: str | PathLike[str]) -> Path:
    """Path of a checkpoint, which may be downloaded and converted for it.

    Args:
        source: A path, an address, ``hf-hub:owner/name[@revision]``, a Hugging Face folder, or the
            name of a published model.

    Returns:
        The path; that there is a file is not said for what was given as a path.

    Raises:
        CheckpointError: If it cannot be had.
    """
    path = expanded(source)
    if os.path.isfile(path) or not _locators:
        return path
    return _locators[0](str(source))


def is_address(source: str | PathLike[str]) -> bool:
    """Whether this is an address such as ``https://...``, which is fetched when it is loaded."""
    return '://' in str(source)


def check_source(source: str | PathLike[str], what: str = 'checkpoint') -> None:
    """Have a checkpoint on this disk before work begins; addresses are fetched on loading.

    Args:
        source: As for :func:`locate`.
        what: What it is called in the message.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it cannot be had.
    """
    if not is_address(source) and not os.path.isfile(locate(source)):
        raise FileNotFoundError(f'{what} file not found: {source}')
