"""What the inferencer returns, and the files that it writes."""

from __future__ import annotations

import csv
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pgseg_mm.messages import shown

MAX_NAME_BYTES = 240
"""Bytes of a file's name without its suffix; most file systems take 255 with it."""


@dataclass(frozen=True)
class Segmentation:
    """An image as segments with names, or why there are none."""

    mask: NDArray[np.int32] | None
    """(H, W), for each pixel the index of its class in ``classes``. H and W are those of the image
    as viewers show it, turned by its EXIF orientation. ``None`` for an image that failed."""
    classes: tuple[str, ...]
    """Names of the classes; the first is 'background' if there is one."""
    name: str
    """Path of the image, or its number for an array."""
    path: str | None = None
    """Path of the image; ``None`` for an array."""
    scores: NDArray[np.float32] | None = None
    """On request, for each class the mean score of the pixels that it wins, (K,), or the score of
    each pixel, (K, H, W)."""
    groups: dict[int, NDArray[np.integer]] | None = None
    """On request, for the first and the last grouping stage (0, 1, ...) the group of each pixel,
    (h, w): at the image's size, or below it for large images."""
    picture: NDArray[np.uint8] | None = None
    """On request, the image with outlined segments and their names, RGB."""
    error: str | None = None
    """Why the image failed, or ``None``."""

    @property
    def areas(self) -> dict[str, float]:
        """Share of the image of each class that occurs, the largest first; they sum to 1.

        Classes of the same name have one share.
        """
        if self.mask is None:
            return {}
        pixels: Counter[str] = Counter()
        counts = np.bincount(self.mask.reshape(-1), minlength=len(self.classes))
        for name, number in zip(self.classes, counts.tolist(), strict=True):
            pixels[name] += number
        return {name: n / self.mask.size for name, n in pixels.most_common() if n}


class Segmentations(list[Segmentation]):
    """One result for each image, in order; those of images that failed have an ``error``."""

    @property
    def failures(self) -> list[Segmentation]:
        """The results of images that failed."""
        return [result for result in self if result.error is not None]

    def summary(self) -> str:
        """How many images were segmented, how many failed, and why."""
        return summarise(len(self), self.failures)


def summarise(number: int, failures: Sequence[Segmentation]) -> str:
    """How many images were segmented, how many failed, and why, one failure a line.

    Args:
        number: Images in all.
        failures: Those of them that failed.
    """
    images = 'image' if number == 1 else 'images'
    if not failures:
        return f'{number} {images} segmented.'
    first = f'{number - len(failures)} of {number} {images} segmented, {len(failures)} failed:'
    return '\n  '.join([first, *(str(failure.error) for failure in failures)])


class OtherClassesError(FileExistsError):
    """A folder has results of other classes, whose masks would mean something else."""


class ResultWriter:
    """Writes masks and pictures, named as their images are, into a folder.

    ``pred/NAME.png`` is a mask of class indices, of 16 bits for more than 256 classes;
    ``vis/NAME.png`` a picture; ``classes.txt`` has a class a line, in the order of the indices;
    ``areas.csv`` has the share of each image that each of its classes takes. The next run of the
    same classes may write to the same folder; ``areas.csv`` is of the last one.

    Args:
        folder: Folder to write to; it is made if need be.
        classes: Names of the classes.

    Raises:
        OtherClassesError: The folder has results of other classes.
    """

    def __init__(self, folder: str | PathLike[str], classes: tuple[str, ...]) -> None:
        self.folder = Path(folder)
        listed = self.folder / 'classes.txt'
        lines = ''.join(' '.join(name.splitlines()) + '\n' for name in classes)
        if listed.is_file() and listed.read_bytes() != lines.encode():
            raise OtherClassesError(
                f'{shown(folder)} has results of other classes (classes.txt), whose masks would '
                'mean something else; give another folder, or remove it'
            )
        for name in ('pred', 'vis'):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        listed.write_bytes(lines.encode())
        self._used: set[str] = set()

    def write(self, result: Segmentation, picture: NDArray[np.uint8]) -> None:
        """Write an image's mask and picture."""
        assert result.mask is not None
        if not self._used:  # those of an earlier run stay until there is a result
            self._add_areas('w', [('image', 'class', 'share')])
        name = self._free_name(result)
        depth = np.uint8 if len(result.classes) <= 256 else np.uint16
        Image.fromarray(result.mask.astype(depth)).save(self.folder / 'pred' / name)
        Image.fromarray(picture).save(self.folder / 'vis' / name)
        self._add_areas(
            'a', ((name, words, f'{share:.6f}') for words, share in result.areas.items())
        )

    def _add_areas(self, mode: str, rows: Iterable[tuple[str, str, str]]) -> None:
        path = self.folder / 'areas.csv'
        # names of files may be no Unicode
        with path.open(mode, encoding='utf-8', errors='surrogateescape', newline='') as file:
            csv.writer(file).writerows(rows)

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
