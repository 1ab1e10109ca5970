"""How checkpoints are written and removed, so that there is always a whole one."""

import os
from pathlib import Path
from typing import Any

from mmengine.fileio import BaseStorageBackend, LocalBackend

from pgseg_mm.integration import add_file_backend
from pgseg_mm.serialization.atomic_files import write_atomically

ATOMIC_BACKEND = 'pgseg_atomic_local'
"""Name of :class:`AtomicLocalBackend`."""


class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, but a file is either the old one or the new one, never a part."""

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write bytes to a file."""
        write_atomically(filepath, lambda path: write_synced(path, obj))

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text to a file."""
        self.put(obj.encode(encoding), filepath)


def write_synced(path: Path, content: bytes | memoryview) -> None:
    """Write a file, and wait until the disk has it."""
    with path.open('wb') as file:
        file.write(content)
        file.flush()
        # else a machine that loses its power could keep the new name and not the content
        os.fsync(file.fileno())


class PostponedRemoval:
    """A backend that only notes which files it should have removed."""

    def __init__(self, backend: BaseStorageBackend) -> None:
        self.backend = backend
        self.removed: list[str] = []

    def remove(self, path: str) -> None:
        self.removed.append(path)

    def rmtree(self, path: str) -> None:
        """Keep folders: no checkpoint of this hook is one."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)


add_file_backend(ATOMIC_BACKEND, AtomicLocalBackend)
