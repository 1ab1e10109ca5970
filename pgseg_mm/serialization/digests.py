"""What tells whether a file is the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

DIGEST_BYTES = 2**20


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while piece := file.read(DIGEST_BYTES):
            digest.update(piece)
    return digest.hexdigest()
