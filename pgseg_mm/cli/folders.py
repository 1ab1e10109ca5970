"""Whether a run can write what it will have to write."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from torch import nn

from pgseg_mm.errors import PreflightError


def check_writable(folder: str | Path, what: str) -> None:
    """Refuse a folder in which no file can be made; it is made if need be.

    Args:
        folder: The folder.
        what: What it is for, such as ``'work_dir'``.

    Raises:
        PreflightError: If a file cannot be made in it.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix='.writable.'):
            pass
    except OSError as error:
        raise PreflightError(
            f'{what} {folder} cannot be written to ({error.strerror or error}); give another folder'
        ) from error


def check_writable_file(path: str | Path, what: str) -> None:
    """Refuse a file that cannot be written.

    Args:
        path: The file; its folder is made if need be.
        what: What it is for, such as ``'--json'``.

    Raises:
        PreflightError: If it cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise PreflightError(f'{what} {path} is a folder; give the name of a file')
    check_writable(path.parent, f'the folder of {what}')
    if path.exists() and not os.access(path, os.W_OK):
        raise PreflightError(f'{what} {path} cannot be written to; give another file')


def check_space(folder: str | Path, model: nn.Module) -> None:
    """Refuse a disk on which not even the weights have room.

    Args:
        folder: Folder of the checkpoints.
        model: The model.

    Raises:
        PreflightError: If there is less room than the model's tensors take.
    """
    needed = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise PreflightError(
            f'{folder} has {free / 2**20:.0f} MiB left, and a checkpoint takes more than the '
            f'{needed / 2**20:.0f} MiB of its weights; make room or give another work_dir'
        )
