"""Writes files of ``torch.save``."""

from pathlib import Path
from typing import Any

import torch

from .atomic_files import write_atomically


def save_atomically(path: str | Path, content: Any) -> None:
    """Write a content by ``torch.save``; see :func:`.atomic_files.write_atomically`.

    The same content makes the same file: given a path, torch would put its name into the file, here
    that of a temporary file, with the names of the machine and the process in it.

    Args:
        path: File to write.
        content: What ``torch.save`` takes.

    Raises:
        OSError: If it cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open('wb') as file:
            torch.save(content, file)

    write_atomically(path, write)
