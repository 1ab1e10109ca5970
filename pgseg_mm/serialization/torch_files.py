"""Reads files of ``torch.save`` of unknown origin.

Neither ``torch.load`` nor its reader is used: what files declare, such as the size of a storage, is
taken for granted there (:mod:`.unpickling` says what else its unpickler lacks). Every length is
compared here with what the file has before anything is made of it, and one reader alone decides
what the file holds.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION, _get_restore_location

from pgseg_mm import limits

from .extent import check_extent
from .placeholders import StorageKind, StoredTensor
from .unpickling import InertUnpickler

ZIP_START = b'PK\x03\x04'
LOCAL_HEADER = 30
"""Bytes of what is in front of a member of a zip archive, but for its name and extra field."""
TAR_MARK = (257, b'ustar')


class UnsupportedFormatError(ValueError):
    """A file is in a format that cannot be read without running code."""


class TorchFile(NamedTuple):
    """Content of a file of ``torch.save``."""

    content: Any
    foreign: tuple[str, ...]
    """Types and functions that the file names and that were not loaded."""


def read_torch_file(
    path: Path, map_location: Any = 'cpu', structure_only: bool = False
) -> TorchFile:
    """Read a file of ``torch.save``, in its zip format or the one before.

    Args:
        path: The file.
        map_location: Where tensors go, as in :func:`torch.load`.
        structure_only: Whether to leave the numbers in the file; the tensors have shapes only.

    Raises:
        UnsupportedFormatError: It is a TorchScript program, or in the format of PyTorch before 0.2.
        Exception: It is damaged, or asks for more than the limits allow.
    """
    restore = None if structure_only else _get_restore_location(map_location)
    with BoundedFile(path) as file:
        start = file.read(len(ZIP_START))
        file.seek(TAR_MARK[0])
        if file.read(len(TAR_MARK[1])) == TAR_MARK[1]:
            raise UnsupportedFormatError(
                'is in the tar format of PyTorch before 0.2, which cannot be read safely'
            )
        file.seek(0)
        read = _read_zip if start == ZIP_START else _read_legacy
        content, unpickler = read(file, restore)
    check_extent(content)
    return TorchFile(content, tuple(sorted(unpickler.foreign)))


class BoundedFile(io.FileIO):
    """A file that reads no more in one piece than it has, nor more than the limit."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, 'rb')
        self.size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self.size - self.tell(), 0)
        size = left if size is None or size < 0 else min(size, left)
        if size > limits.CHECKPOINT_DIRECTORY_BYTES:
            raise ValueError(f'the archive has a directory of {size} bytes')
        return super().read(size)


Restore = Callable[[torch.UntypedStorage, str], torch.UntypedStorage]


class _Storages:
    """Reads storages, each once, or only notes which there are.

    Args:
        read: Fills a buffer with the bytes of a storage of a given key and length, or checks that
            they are there if there is no buffer.
        restore: Moves a storage to its device; ``None`` to make storages without numbers.
    """

    def __init__(
        self, read: Callable[[str, int, memoryview | None], None], restore: Restore | None
    ) -> None:
        self._read, self._restore = read, restore
        self._stored: dict[str, torch.UntypedStorage] = {}
        self._truths: set[str] = set()
        self.lengths: dict[str, tuple[int, int]] = {}
        """Bytes of each storage, and those of one element."""

    def __call__(self, description: tuple) -> StoredTensor:
        """The storage that a persistent id describes."""
        kind, key, location, numel = description[:4]
        if type(kind) is not StorageKind or type(key) is not str or type(location) is not str:
            raise pickle.UnpicklingError('a storage without type, key or device')
        if description[4:] not in ((), (None,)):
            raise pickle.UnpicklingError('a view of a storage, as before PyTorch 0.4')
        if type(numel) is not int or not 0 <= numel < 2**60:
            raise pickle.UnpicklingError('a storage whose length is no number')
        width = kind.dtype.itemsize
        length = numel * width
        if key not in self._stored:
            self._stored[key] = self._make(key, length, location)
            self.lengths[key] = (length, width)
        if length > self._stored[key].nbytes():
            raise pickle.UnpicklingError(f'a storage of {length} bytes where there are less')
        if kind.dtype is torch.bool:
            self._check_truth(key)
        return StoredTensor(self._stored[key], kind.dtype, numel)

    def _check_truth(self, key: str) -> None:
        """Refuse truth values other than 0 and 1, with which PyTorch does not reckon."""
        stored = self._stored[key]
        if key in self._truths or not stored.nbytes() or stored.device.type == 'meta':
            return
        values = torch.empty(0, dtype=torch.uint8, device=stored.device).set_(stored)
        if int(values.max()) > 1:
            raise pickle.UnpicklingError('truth values that are neither 0 nor 1')
        self._truths.add(key)

    def _make(self, key: str, length: int, location: str) -> torch.UntypedStorage:
        if self._restore is None:
            self._read(key, length, None)
            return torch.UntypedStorage(length, device='meta')
        # the reader looks at what the file has before the memory is asked for
        self._read(key, length, None)
        values = torch.empty(length, dtype=torch.uint8)
        if length:
            self._read(key, length, memoryview(values.numpy().data))
        return self._restore(values.untyped_storage(), location)


def _fill(file: BoundedFile, buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        count = file.readinto(buffer[done:])
        if not count:
            raise EOFError('it ends within its tensors')
        done += count


class _Members:
    """The members of a zip archive as ``torch.save`` writes them: stored as they are, each once."""

    def __init__(self, file: BoundedFile) -> None:
        self.file = file
        infos = zipfile.ZipFile(file).infolist()
        tops = {info.filename.split('/')[0] for info in infos}
        names = [info.filename.partition('/')[2] for info in infos]
        if len(tops) != 1 or len(set(names)) != len(names):
            raise ValueError('the archive has several folders, or members of the same name')
        if 'constants.pkl' in names:
            raise UnsupportedFormatError('is a TorchScript program, not a checkpoint')
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                raise ValueError(
                    f'the archive has compressed members ({info.filename[:80]}); unpack it and '
                    'write it again without compression'
                )
            if info.file_size != info.compress_size:
                raise ValueError('the archive has members of two sizes')
        end = 0
        self._places: dict[str, tuple[int, int]] = {}
        for info in sorted(infos, key=lambda info: info.header_offset):
            if info.header_offset < end:
                raise ValueError('the archive has members that overlap')
            end = info.header_offset + LOCAL_HEADER + info.file_size
            self._places[info.filename.partition('/')[2]] = (info.header_offset, info.file_size)
        if end > file.size:
            raise EOFError('the archive has members behind its end')

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def size(self, name: str) -> int:
        """Bytes of a member."""
        if name not in self._places:
            raise KeyError(f'the archive has no member {name[:80]}')
        return self._places[name][1]

    def read_into(self, name: str, buffer: memoryview) -> None:
        """Read the beginning of a member."""
        offset, _ = self._places[name]
        self.file.seek(offset)
        header = self.file.read(LOCAL_HEADER)
        if len(header) < LOCAL_HEADER or header[:4] != ZIP_START:
            raise ValueError('the archive has a member without its header')
        lengths = int.from_bytes(header[26:28], 'little') + int.from_bytes(header[28:30], 'little')
        self.file.seek(offset + LOCAL_HEADER + lengths)
        _fill(self.file, buffer)

    def read(self, name: str, limit: int) -> bytearray:
        """Read a whole member."""
        size = self.size(name)
        if size > limit:
            raise ValueError(f'its {name} has {size} bytes; {limit} are allowed')
        content = bytearray(size)
        self.read_into(name, memoryview(content))
        return content


def _read_zip(file: BoundedFile, restore: Restore | None) -> tuple[Any, InertUnpickler]:
    members = _Members(file)
    if 'byteorder' in members and members.read('byteorder', 16) != sys.byteorder.encode():
        raise ValueError('it was written by a machine of another byte order')

    def read(key: str, length: int, buffer: memoryview | None) -> None:
        name = f'data/{key}'
        if members.size(name) < length:
            raise EOFError(f'{name} has {members.size(name)} bytes, not {length}')
        if buffer is not None:
            members.read_into(name, buffer)

    pickled = members.read('data.pkl', limits.CHECKPOINT_PICKLE_BYTES)
    unpickler = InertUnpickler(io.BytesIO(pickled), _Storages(read, restore), len(pickled))
    return unpickler.load(), unpickler


class _PickleStream:
    """What an unpickler reads of a file that holds several pickles.

    Args:
        file: The file, at the beginning of a pickle.
        limit: Bytes of it that may be read.
    """

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file, self._left = file, limit

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes."""
        return self._count(self._file.read(min(size, self._left)))

    def readline(self) -> bytes:
        """The rest of a line."""
        return self._count(self._file.readline(self._left))

    def _count(self, content: bytes) -> bytes:
        self._left -= len(content)
        return content


def _read_legacy(file: BoundedFile, restore: Restore | None) -> tuple[Any, InertUnpickler]:
    # a place of its own in the file: where tensors are read, the pickles must not be read on
    with open(file.name, 'rb', buffering=2**16) as pickles:
        if not os.path.samestat(os.fstat(pickles.fileno()), os.fstat(file.fileno())):
            raise ValueError('it was replaced while it was read')
        return _read_pickles(file, pickles, restore)


def _read_pickles(
    file: BoundedFile, pickles: BinaryIO, restore: Restore | None
) -> tuple[Any, InertUnpickler]:
    # the largest piece is a string of the pickle, which the stream bounds
    limit = min(file.size, limits.CHECKPOINT_PICKLE_BYTES)
    stream = _PickleStream(pickles, limit)

    def load(storages: Callable[[tuple], StoredTensor] | None = None) -> tuple[Any, InertUnpickler]:
        unpickler = InertUnpickler(stream, storages, limit)
        return unpickler.load(), unpickler

    if load()[0] != MAGIC_NUMBER or load()[0] != PROTOCOL_VERSION:
        raise ValueError('it does not begin as a file of torch.save does')
    system = load()[0]
    if not isinstance(system, dict) or system.get('little_endian') is not (
        sys.byteorder == 'little'
    ):
        raise ValueError('it was written by a machine of another byte order')
    begin = pickles.tell()
    total = 0

    def declare(key: str, length: int, buffer: memoryview | None) -> None:
        nonlocal total
        total += length
        if total > file.size:
            raise EOFError(f'it declares tensors of {total} bytes, and has {file.size} in all')

    declared = _Storages(declare, None)
    content, unpickler = load(declared)
    keys = load()[0]
    places = _find_legacy_storages(file, pickles.tell(), keys, declared.lengths)
    if restore is None:
        return content, unpickler

    def read(key: str, length: int, buffer: memoryview | None) -> None:
        if buffer is not None:
            file.seek(places[key])
            _fill(file, buffer)

    # what is in front says which storages there are, what is behind where they lie
    pickles.seek(begin)
    stream = _PickleStream(pickles, limit)
    return load(_Storages(read, restore))


def _find_legacy_storages(
    file: BoundedFile, position: int, keys: Any, lengths: dict[str, tuple[int, int]]
) -> dict[str, int]:
    """Where the bytes of each storage begin.

    Args:
        file: The file.
        position: Where the first of them begins.
        keys: Their keys, in the file's order.
        lengths: Of each declared storage its bytes, and those of one element.
    """
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError('its list of tensors is damaged')
    if len(set(keys)) != len(keys) or set(keys) != set(lengths):
        raise ValueError('it does not list the tensors that it has')
    places = {}
    for key in keys:
        length, width = lengths[key]
        file.seek(position)
        if int.from_bytes(file.read(8), 'little') * width != length:
            raise ValueError('it has tensors of another size than it declares')
        places[key] = position + 8
        position += 8 + length
    if position > file.size:
        raise EOFError('it ends within its tensors')
    return places
