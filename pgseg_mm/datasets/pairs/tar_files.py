"""Reading of tar files of strangers, whose headers may ask for anything."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, BinaryIO, Literal, Protocol

from pgseg_mm import limits
from pgseg_mm.files.reading import is_of_system
from pgseg_mm.messages import shown

PIPE = 'pipe:'
READ_ERRORS = (EOFError, OSError, lzma.LZMAError, tarfile.TarError, zlib.error)
"""What reading a damaged tar file raises, and the system."""
LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
PIECE_BYTES = 2**16


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class StrictTarInfo(tarfile.TarInfo):
    """A member whose header is checked before anything is read that it declares.

    Where tarfile ends quietly at a damaged header or without an end marker, this is an error.
    Sparse members are marked as such, but neither their maps nor their contents are read.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> StrictTarInfo:
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0:
            raise tarfile.ReadError(f'a header declares {shown(member.size)} bytes')
        if member.type in LONG_HEADERS and member.size > limits.MAX_TAR_HEADER_BYTES:
            raise tarfile.ReadError(
                f'an extended header of {shown(member.size)} bytes, '
                f'more than {limits.MAX_TAR_HEADER_BYTES}'
            )
        return member

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> StrictTarInfo:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f'{error} at byte {archive.offset}') from error

    def _proc_sparse(self, archive: Any) -> StrictTarInfo:
        extended = self._sparse_structs[1]  # type: ignore[attr-defined]
        del self._sparse_structs  # type: ignore[attr-defined]
        while extended:
            block = archive.fileobj.read(tarfile.BLOCKSIZE)
            if len(block) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError('a sparse header is cut off')
            extended = bool(block[504])
        self.sparse = []  # type: ignore[assignment]
        self.offset_data = archive.fileobj.tell()
        archive.offset = self.offset_data + self._block(self.size)  # type: ignore[attr-defined]
        return self

    def _proc_gnusparse_00(self, following: Any, *_: Any) -> None:
        following.sparse = []

    _proc_gnusparse_01 = _proc_gnusparse_10 = _proc_gnusparse_00


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of an archive one after another; tarfile keeps none of them.

    Raises:
        tarfile.ReadError: A header is damaged, or leads back to what was read.
    """
    end = -1
    while True:
        with _header_errors():
            member = archive.next()
        if member is None:
            return
        if member.size < 0 or archive.offset <= end:
            raise tarfile.ReadError(f'a header leads back to byte {shown(archive.offset)}')
        end = archive.offset
        archive.members = []  # type: ignore[attr-defined]
        archive.pax_headers = {}  # of all that follow: nothing of a pair, but they add up
        yield member


@contextmanager
def _header_errors() -> Iterator[None]:
    """Numbers, texts and maps of headers fail in their own ways."""
    try:
        yield
    except (EOFError, MemoryError, tarfile.TarError, zlib.error, lzma.LZMAError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and (error.errno is None or is_of_system(error)):
            raise
        raise tarfile.ReadError(f'a header is malformed ({type(error).__name__})') from error


def _open(file: Any, mode: Literal['r:', 'r|', 'r|*']) -> tarfile.TarFile:
    with _header_errors():
        return tarfile.open(fileobj=file, mode=mode, tarinfo=StrictTarInfo)


@contextmanager
def open_tar(path: str) -> Iterator[tarfile.TarFile]:
    """Open a tar file, or a command that writes one.

    Args:
        path: A file, which may be compressed with gzip, bzip2 or xz, or ``pipe:COMMAND``.

    Raises:
        EOFError, OSError, lzma.LZMAError, tarfile.TarError, zlib.error: It cannot be read.
    """
    if path.startswith(PIPE):
        with _open_pipe(path) as archive:
            yield archive
        return
    with open(path, 'rb') as file:
        unpack = _unpacker(file)
        if unpack is None:
            with _open(file, 'r:') as archive:
                yield archive
        else:
            size = os.fstat(file.fileno()).st_size
            stream = _Stream(unpack, limits.MAX_UNPACKING * size + limits.UNPACKING_ALLOWANCE)
            with _open(stream, 'r|') as archive:
                yield archive


def most_held(path: str) -> float:
    """Bytes of a shard's samples that may be held at a time."""
    if path.startswith(PIPE):
        return float('inf')
    try:
        return 2 * os.path.getsize(path) + limits.HELD_ALLOWANCE
    except OSError:  # reading it says what is wrong
        return limits.HELD_ALLOWANCE


def _unpacker(file: BinaryIO) -> _Readable | None:
    head = file.read(6)
    file.seek(0)
    if head.startswith(b'\x1f\x8b'):
        return gzip.GzipFile(fileobj=file)
    if head.startswith(b'BZh'):
        return bz2.BZ2File(file)
    return _XzFile(file) if head == b'\xfd7zXZ\0' else None


class _Stream:
    """A stream of at most so many bytes, beyond whose end no seeking goes on reading."""

    def __init__(self, file: _Readable, limit: float = float('inf')) -> None:
        self._file = file
        self._limit = self._left = limit
        self._ended = False

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        if self._ended and not content:
            raise tarfile.ReadError('unexpected end of data')
        self._ended = not content
        self._left -= len(content)
        if self._left < 0:
            raise tarfile.ReadError(
                f'it unpacks to more than {self._limit} bytes, '
                f'{limits.MAX_UNPACKING} times its size'
            )
        return content


class _XzFile:
    """An xz file, read with limited memory; :class:`lzma.LZMAFile` has no limit."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=limits.MAX_XZ_MEMORY)

    def read(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            if self._decoder.eof:  # files may be joined
                rest = self._decoder.unused_data.lstrip(b'\0') or self._file.read(
                    PIECE_BYTES
                ).lstrip(b'\0')
                if not rest:
                    break
                self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=limits.MAX_XZ_MEMORY)
            else:
                rest = self._file.read(PIECE_BYTES) if self._decoder.needs_input else b''
                if self._decoder.needs_input and not rest:
                    raise EOFError('the xz file is cut off')
            parts.append(self._decoder.decompress(rest, max_length=size))
            size -= len(parts[-1])
        return b''.join(parts)


@contextmanager
def _open_pipe(shard: str) -> Iterator[tarfile.TarFile]:
    # The package has a function of the module's name.
    gopen = import_module('webdataset.gopen')
    stream = gopen.gopen(shard)
    # Its exit status is looked at in the end: before, how much was read would depend on timing.
    gopen.set_options(stream, ignore_errors=True)
    fault: Exception | None = None
    try:
        with _open(_Stream(stream), 'r|*') as archive:
            yield archive
    except READ_ERRORS as error:
        fault = error
    except BaseException:  # the reader has gone
        stream.proc.terminate()
        stream.close()
        raise
    while stream.read(2**20):  # the padding behind the end
        pass
    stream.close()
    if stream.status != 0:
        raise OSError(f'the command ended with exit status {stream.status}') from fault
    if fault is not None:
        raise fault
