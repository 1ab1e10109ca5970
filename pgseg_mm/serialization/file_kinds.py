"""What a file is that was given as a checkpoint and is none."""

from __future__ import annotations

import collections
import io
import json
import pickletools
import re
import string
import zipfile
from pathlib import Path

from .torch_files import BoundedFile

HEAD = 4096
"""Bytes that are looked at."""
LFS = b'version https://git-lfs.github.com/spec/'
ARCHIVES = (
    (b'\x1f\x8b', 'a gzip archive'),
    (b'BZh', 'a bzip2 archive'),
    (b'\xfd7zXZ\x00', 'an xz archive'),
    (b'7z\xbc\xaf\x27\x1c', 'a 7z archive'),
    (b'\x28\xb5\x2f\xfd', 'a zstd archive'),
    (b'Rar!', 'a RAR archive'),
)
OTHERS = (
    (b'\x89PNG', 'a PNG image'),
    (b'\xff\xd8\xff', 'a JPEG image'),
    (b'%PDF', 'a PDF document'),
    (b'\x89HDF', 'an HDF5 file, as Keras writes it'),
    (b'\x93NUMPY', 'a NumPy array'),
    (b'PAR1', 'a Parquet file'),
    (b'GGUF', 'a GGUF file'),
)
ZIP, PICKLE, TAR = b'PK\x03\x04', b'\x80', b'ustar'
ONNX = re.compile(rb'\x08[\x01-\x14]\x12.\w')
"""A version of the format, and the name of the program that wrote it."""
TAR_BLOCK, TAR_SIZE, TAR_MAGIC, TAR_TYPE = 512, slice(124, 136), slice(257, 262), slice(156, 157)
PLAIN_FILES = (b'0', b'\x00')
MAX_MEMBERS = 8
"""Of a tar archive, that are looked at."""
OLD_PARTS = {b'pickle', b'storages', b'tensors'}
"""Members of the archives that PyTorch wrote before 0.2."""
TEXT = frozenset(string.printable.encode())


def foreign_kind(path: str | Path) -> str | None:
    """What a file seems to be, if it cannot be a checkpoint, and how such a file comes about.

    Only the beginning is read, and nothing is unpickled.

    Args:
        path: A file that was given as a checkpoint of PyTorch.

    Returns:
        A clause such as ``'is an empty file; ...'``, or ``None`` for what may be a checkpoint.
    """
    path = Path(path)
    with path.open('rb') as file:
        head = file.read(HEAD)
    if not head.strip(b'\x00'):
        return _blank(head)
    if head.startswith(LFS):
        return (
            'is a pointer of Git LFS, not the file itself: it was cloned without git-lfs; run '
            'git lfs pull, or download the file'
        )
    is_safetensors, named_so = _is_safetensors(path, head), path.suffix == '.safetensors'
    if is_safetensors:
        return None if named_so else 'is a safetensors file; rename it to end in .safetensors'
    if named_so and head.startswith((ZIP, PICKLE)):
        return 'is a file of PyTorch, not of safetensors; rename it to end in .pth'
    if head.startswith(ZIP):
        return _archive(path)
    for start, kind in ARCHIVES:
        if head.startswith(start):
            return f'is {kind}; unpack it'
    for start, kind in OTHERS:
        if head.startswith(start):
            return f'is {kind}, not a checkpoint'
    if ONNX.match(head):
        return 'is an ONNX model, not a checkpoint'
    if head[TAR_MAGIC] == TAR:
        return _tar(path)
    return _text(head) or _no_pickle(head)


def _tar(path: Path) -> str | None:
    """What a tar archive is that is not of PyTorch before 0.2; its first members are looked at.

    These have plain headers. tarfile would follow others as far as a file leads it.
    """
    names: set[bytes] = set()
    with path.open('rb') as file:
        for _ in range(MAX_MEMBERS):
            header = file.read(TAR_BLOCK)
            if not header.strip(b'\x00'):
                break
            size = re.fullmatch(rb'\s*([0-7]{1,11})[\s\x00]*', header[TAR_SIZE])
            if len(header) < TAR_BLOCK or header[TAR_MAGIC] != TAR or size is None:
                return 'is a tar archive that is damaged'
            if header[TAR_TYPE] not in PLAIN_FILES:
                break
            names.add(header[:100].split(b'\x00')[0])
            file.seek(-int(size[1], 8) % TAR_BLOCK + int(size[1], 8), io.SEEK_CUR)
    return None if names >= OLD_PARTS else 'is a tar archive; unpack it'


def _no_pickle(head: bytes) -> str | None:
    """Whether a beginning is none of a pickle, of whatever protocol; nothing is unpickled."""
    if head.startswith(PICKLE):
        return None
    try:
        collections.deque(pickletools.genops(io.BytesIO(head)), maxlen=0)
    except (ValueError, IndexError) as error:  # IndexError is pickletools' own, of a memo
        cut = isinstance(error, ValueError) and 'unknown' not in str(error)
        if cut and len(head) == HEAD:
            return None  # it goes on behind the head
    else:
        return None
    kind = 'text' if _is_utf8(head + b'    ') else 'of no format that PyTorch writes'
    return f'is {kind}, not a checkpoint; it begins with {head[:16]!r}'


def _blank(head: bytes) -> str:
    if not head:
        return 'is an empty file, as an interrupted download or a full disk leaves it; get it again'
    return 'begins with zeros only, as an interrupted download leaves it; get it again'


def _archive(path: Path) -> str | None:
    """What a ZIP archive is that torch.save has not written."""
    try:
        with BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        if not _has_an_end(path):
            return (
                'begins as a file of torch.save and has no end, as an interrupted download or a '
                'full disk leaves it; get it again'
            )
        return None  # crafted: torch says so
    if any(name.endswith('.pkl') for name in names):
        return None
    return f'is a ZIP archive of {len(names)} files, none of which torch.save wrote; unpack it'


def _has_an_end(path: Path) -> bool:
    """Whether a ZIP archive has an end, such as it is."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # of an archive in several parts
        return True


def _is_safetensors(path: Path, head: bytes) -> bool:
    """Eight bytes with the length of a header, which is a JSON object."""
    length = int.from_bytes(head[:8], 'little')
    return head[8:9] == b'{' and 2 <= length <= path.stat().st_size - 8


def _text(head: bytes) -> str | None:
    """What a file is that begins with text; pickles of the first protocol do so, too."""
    start = head.removeprefix(b'\xef\xbb\xbf').lstrip()
    if re.match(rb'<(!doctype|html|head|body|\?xml|!--)', start[:64].lower()):
        return (
            'is a web page (HTML or XML), not a checkpoint: the address leads to a page about the '
            'file, or asks for a login; download the file itself'
        )
    if not set(head) <= TEXT and not _is_utf8(head):
        return None
    if start[:1] in (b'{', b'['):
        try:
            # the end may be half a letter
            json.loads(head.decode('utf-8-sig', 'ignore'))
        except json.JSONDecodeError:
            if len(head) < HEAD:
                return None if not start.startswith(b'{"') else _JSON
        except (RecursionError, ValueError):
            return _JSON  # of brackets or digits alone
        return _JSON
    words = start[:200].decode('utf-8', 'replace')
    if re.match(r'[\w \'"#:/.,-]{12,}', words) and '\n' in words[:200] and ' ' in words:
        return 'is a text file, not a checkpoint'
    return None


_JSON = (
    'is a JSON file, such as a config or an error message of a server, not a checkpoint; give the '
    'file of weights'
)


def _is_utf8(head: bytes) -> bool:
    try:
        head[:-4].decode()
    except UnicodeDecodeError:
        return False
    return b'\x00' not in head
