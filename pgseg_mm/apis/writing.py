"""Results as files in a folder."""

from __future__ import annotations

import os
import zlib
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .results import Segmentation

MAX_NAME_BYTES = 240
"""Bytes of a file's name without its suffix; most file systems take 255 with it."""


class ResultWriter:
    """Writes masks and pictures, named as their images are, into a folder.

    ``pred/NAME.png`` is a mask of class indices, of 16 bits for more than 256 classes;
    ``vis/NAME.png`` a picture; ``classes.txt`` has a class a line, in the order of the indices.

    Args:
        folder: Folder to write to; it is made if need be.
        classes: Names of the classes.
    """

    def __init__(self, folder: str | PathLike[str], classes: tuple[str, ...]) -> None:
        self.folder = Path(folder)
        for name in ('pred', 'vis'):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / 'classes.txt').write_text('\n'.join(classes) + '\n', encoding='utf-8')
        self._used: set[str] = set()

    def write(self, result: Segmentation, picture: NDArray[np.uint8]) -> None:
        """Write an image's mask and picture."""
        assert result.mask is not None
        name = self._free_name(result)
        depth = np.uint8 if len(result.classes) <= 256 else np.uint16
        Image.fromarray(result.mask.astype(depth)).save(self.folder / 'pred' / name)
        Image.fromarray(picture).save(self.folder / 'vis' / name)

    def _free_name(self, result: Segmentation) -> str:
        """A file name that no other image of this run has."""
        if result.path is None:
            names = [f'{int(result.name):08d}']
        else:
            path = Path(result.path)
            names = [_shortened(name) for name in (path.stem, path.name)]
        numbered = (f'{names[-1]}.{number}' for number in range(1, len(self._used) + 2))
        name = next(name for name in (*names, *numbered) if name not in self._used)
        self._used.add(name)
        return f'{name}.png'


def _shortened(name: str) -> str:
    """A name that leaves room for a number and a suffix in a file's name."""
    name_bytes = os.fsencode(name)
    if len(name_bytes) <= MAX_NAME_BYTES:
        return name
    kept = name_bytes[: MAX_NAME_BYTES - 9].decode(errors='ignore')
    return f'{kept}-{zlib.crc32(name_bytes):08x}'
