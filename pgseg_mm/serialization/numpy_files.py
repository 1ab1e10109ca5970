"""Reads NumPy's files of unknown origin: plain numbers or text, as many as declared."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

from numpy.lib import format as npy
from numpy.typing import NDArray

from pgseg_mm import limits

from .loading import CheckpointError, describe_error
from .torch_files import BoundedFile

KINDS = 'biufSU'
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
"""Those of NumPy. Of others, zipfile unpacks all that it has read, however much that becomes."""
SUFFIX = '.npy'


def read_npy(path: str | Path) -> NDArray[Any]:
    """The array of a ``.npy`` file.

    Raises:
        CheckpointError: The file is damaged, or holds something else than plain numbers or text.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    try:
        with path.open('rb') as file:
            return _read(file, path.stat().st_size)
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy raises as many types as there are ways to break a file
        raise _damaged(path, '.npy', error) from error


def read_npz(path: str | Path, wanted: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Arrays of an ``.npz`` file by their names.

    Args:
        path: The file.
        wanted: Names of those to read, as far as they are there; by default all are read.

    Raises:
        CheckpointError: The file is damaged, or holds something else than plain numbers or text, or
            unpacks to far more than it has.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    try:
        with BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
            infos = {
                info.filename.removesuffix(SUFFIX): info
                for info in archive.infolist()
                if info.filename.endswith(SUFFIX)
            }
            if wanted is not None:
                infos = {name: info for name, info in infos.items() if name in wanted}
            others = {info.compress_type for info in infos.values()} - COMPRESSIONS
            if others:
                raise ValueError('its arrays are compressed otherwise than NumPy does it')
            total = sum(info.file_size for info in infos.values())
            allowed = limits.MAX_UNPACKING * file.size + limits.UNPACKING_ALLOWANCE
            if total > min(allowed, 2 * file.size + limits.MAX_UNPACKED_ARRAYS):
                raise ValueError(f'its arrays unpack to {total} bytes')
            return {name: _read_member(archive, info) for name, info in infos.items()}
    except FileNotFoundError:
        raise
    except Exception as error:
        raise _damaged(path, '.npz', error) from error


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as file:
        return _read(file, info.file_size)  # type: ignore[arg-type]


def _read(file: BinaryIO, size: int) -> NDArray[Any]:
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f'version {version} of the format')
    shape, _, dtype = HEADERS[version](file)
    if dtype.kind not in KINDS or dtype.hasobject:
        raise ValueError(f'an array of {dtype}; expected plain numbers or text')
    if any(side < 0 for side in shape):  # to older versions of NumPy, one means the rest
        raise ValueError(f'an array of shape {shape}')
    if not dtype.itemsize or math.prod(side or 1 for side in shape) > size + limits.EMPTY_ENTRIES:
        raise ValueError(f'an array of {dtype} and of shape {shape}, which has no content')
    declared = math.prod(shape) * dtype.itemsize
    if declared > size - file.tell():
        raise ValueError(f'an array of {declared} bytes is declared, and there are {size} in all')
    file.seek(0)
    return npy.read_array(file, allow_pickle=False)


def _damaged(path: Path, suffix: str, error: Exception) -> CheckpointError:
    return CheckpointError(f'{path} cannot be read as a {suffix} file: {describe_error(error)}')
