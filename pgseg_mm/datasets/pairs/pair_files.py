"""Reading of annotation files and folders of image-text pairs."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from pgseg_mm import limits
from pgseg_mm.files.reading import FileAccessError, UnusableFile, read_file, retrying
from pgseg_mm.messages import shown

from .json_rows import JsonList, parse, read_lines, too_long
from .parquet_rows import ParquetRows
from .skips import (
    CAPTION_NOT_UTF8,
    MISSING_CAPTION,
    MISSING_IMAGE,
    OUTSIDE,
    TOO_MANY_BYTES,
    UnusableSample,
)

IMAGE_KINDS = 'jpg jpeg png webp avif bmp gif jfif tif tiff'
IMAGE_SUFFIXES = tuple(f'.{kind}' for kind in IMAGE_KINDS.split(' '))
"""Of images in folders and in shards; of two in one sample of a shard, the first here counts."""
BATCH_ROWS = 65536

Row = dict[str, Any] | UnusableSample
NumberedRow = tuple[str, Row]
"""Where a row stands ('line 7') and its columns, or why it cannot be used."""


def read_rows(
    path: Path, image_key: str, caption_key: str, allow_outside: bool = False
) -> Iterator[NumberedRow]:
    """Rows of an annotation file, or of a folder of images with captions beside them.

    Args:
        path: ``.json``, ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``; or a folder, where the
            caption of ``a/b.jpg`` is ``a/b.txt``.
        image_key: Column of the image's path.
        caption_key: Column of the caption.
        allow_outside: Whether captions of a folder may be links that lead out of it.

    Yields:
        Where the row stands, and its columns; of a Parquet file and a folder these two only, an
        image that lies in the row as :class:`ImageInRow`. What cannot be used comes as an
        :class:`UnusableSample`: a file in a folder without its partner, a caption that is not
        UTF-8, JSON that is nested too deeply or too long.

    Raises:
        FileAccessError: The system cannot read it.
        FileNotFoundError: There is no such file or folder.
        ImportError: The file is Parquet and pyarrow is not installed.
        ValueError: The file has another suffix or is malformed.
    """
    if path.is_dir():
        yield from _read_folder(path, image_key, caption_key, allow_outside)
        return
    readers = {
        '.json': _read_json,
        '.jsonl': _read_json_lines,
        '.csv': _read_csv,
        '.tsv': _read_tsv,
    }
    suffix = path.suffix.lower()
    if suffix not in (*readers, '.parquet'):
        raise ValueError(
            f'Annotation file {shown(path)} has the suffix {shown(repr(path.suffix))}; '
            f'expected one of {sorted((*readers, ".parquet"))}, or a folder.'
        )
    if not path.is_file():
        raise FileNotFoundError(
            f'Annotation file {shown(path)} does not exist; check ann_file and data_root '
            '(a relative ann_file is joined to data_root).'
        )
    retrying(lambda: path.open('rb').close(), f'Annotation file {shown(path)}')
    try:
        if suffix == '.parquet':
            yield from _read_parquet(path, image_key, caption_key)
        else:
            yield from readers[suffix](path)
    except UnicodeDecodeError as error:
        raise ValueError(
            f'Annotation file {shown(path)} is not UTF-8 text; save it as UTF-8.'
        ) from error


def _read_folder(
    folder: Path, image_key: str, caption_key: str, allow_outside: bool
) -> Iterator[NumberedRow]:
    root = None if allow_outside else os.path.realpath(folder)
    tree = _Tree(folder, allow_outside)
    files = sorted(tree.files())
    for link in sorted(tree.outside):
        yield (
            shown(link.relative_to(folder)),
            UnusableSample(
                OUTSIDE,
                f'{shown(link)} is a link to a folder outside of {shown(folder)}; '
                'allow_outside=True takes what is in it.',
            ),
        )
    images = {file for file in files if file.suffix.lower() in IMAGE_SUFFIXES}
    stems = {image.with_suffix('') for image in images}
    for file in files:
        place = shown(file.relative_to(folder))
        if file in images:
            yield place, _sidecar_row(file, root, image_key, caption_key)
        elif file.suffix == '.txt' and file.with_suffix('') not in stems:
            yield place, UnusableSample(MISSING_IMAGE, f'{shown(file)} has no image beside it.')


class _Tree:
    """The files below a folder. Links to folders in it are not followed, since what they lead to is
    below the folder anyway; others are, if that is allowed.

    Args:
        folder: The folder.
        allow_outside: Whether to follow links to folders that lead out of it.
    """

    def __init__(self, folder: Path, allow_outside: bool) -> None:
        self._folder = folder
        self._allow_outside = allow_outside
        self._seen = [Path(os.path.realpath(folder))]
        self.outside: list[Path] = []
        """Links to folders that were left out, when the files have been gone through."""

    def files(self) -> Iterator[Path]:
        """Go through the files.

        Raises:
            FileAccessError: A folder cannot be read.
        """
        for place, folders, names in os.walk(self._folder, onerror=_refuse, followlinks=True):
            folders[:] = [name for name in folders if self._enters(Path(place, name))]
            for name in names:
                file = Path(place, name)
                if file.is_file():
                    yield file

    def _enters(self, folder: Path) -> bool:
        if not folder.is_symlink():
            return True
        target = Path(os.path.realpath(folder))
        if any(target.is_relative_to(seen) for seen in self._seen):
            return False
        if self._allow_outside:
            self._seen.append(target)
        else:
            self.outside.append(folder)
        return self._allow_outside


def _refuse(error: OSError) -> None:
    raise FileAccessError(
        f'Folder {shown(error.filename)} cannot be read: {error.strerror}.'
    ) from error


def _sidecar_row(image: Path, root: str | None, image_key: str, caption_key: str) -> Row:
    text = image.with_suffix('.txt')
    name = shown(text)
    outside = root is not None and Path(root) not in Path(os.path.realpath(text)).parents
    if outside and text.is_symlink():
        return UnusableSample(
            OUTSIDE,
            f'{name} is a link that leads out of {shown(root)}; allow_outside=True takes it.',
        )
    try:
        content = read_file(str(text), name, max_bytes=limits.MAX_TEXT_MEMBER_BYTES)
        caption = content.decode('utf-8-sig')
    except FileNotFoundError:
        return UnusableSample(MISSING_CAPTION, f'{shown(image)} has no {text.suffix} beside it.')
    except UnusableFile as error:
        return UnusableSample(TOO_MANY_BYTES, f'{name} {error.reason}.')
    except UnicodeDecodeError:
        return UnusableSample(CAPTION_NOT_UTF8, f'{name} is not UTF-8 text.')
    return {image_key: str(image), caption_key: caption}


def _read_parquet(path: Path, image_key: str, caption_key: str) -> Iterator[NumberedRow]:
    rows = ParquetRows(path)
    if not {image_key, caption_key} <= set(rows.columns):
        yield 'its schema', dict.fromkeys(rows.columns, '')
        return
    pairs = rows.pairs(image_key, caption_key, BATCH_ROWS)
    for number, (image, caption) in enumerate(pairs, start=1):
        yield f'row {number}', {image_key: image, caption_key: caption}


def _read_json(path: Path) -> Iterator[NumberedRow]:
    with path.open(encoding='utf-8-sig') as file:
        for number, row in enumerate(JsonList(file, shown(path)), start=1):
            yield _checked_object(path, f'entry {number}', row)


def _read_json_lines(path: Path) -> Iterator[NumberedRow]:
    with path.open(encoding='utf-8-sig') as file:
        for number, line in read_lines(file):
            place = f'{shown(path)}, line {number}'
            if line is None:
                yield f'line {number}', too_long(place)
                continue
            if not line.strip():
                continue
            try:
                row = parse(line, place)
            except json.JSONDecodeError as error:
                raise ValueError(f'{place}: invalid JSON: {error.msg}.') from error
            yield _checked_object(path, f'line {number}', row)


def _checked_object(path: Path, place: str, row: Any) -> NumberedRow:
    if not isinstance(row, dict | UnusableSample):
        raise ValueError(
            f'{shown(path)}, {place}: found a JSON {type(row).__name__}; '
            'expected an object with the image and the caption.'
        )
    return place, row


class _RowLines:
    """Lines of a file for the reader of its rows, as long as a row is not too long."""

    def __init__(self, file: TextIO, name: str) -> None:
        self._file, self._name = file, name
        self._left = limits.MAX_ROW_CHARACTERS

    def __iter__(self) -> _RowLines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(self._left)
        self._left -= len(line)
        if not line:
            raise StopIteration
        if self._left <= 0:
            raise ValueError(
                f'{self._name} has a row of more than {limits.MAX_ROW_CHARACTERS} characters; '
                'check the quoting.'
            )
        return line

    def begin_row(self) -> None:
        self._left = limits.MAX_ROW_CHARACTERS


def _read_csv(path: Path, delimiter: str = ',') -> Iterator[NumberedRow]:
    csv.field_size_limit(limits.MAX_ROW_CHARACTERS)  # lines are held to it, too
    with path.open(encoding='utf-8-sig', newline='') as file:
        lines = _RowLines(file, shown(path))
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            columns = [column.strip() for column in next(reader, [])]
            lines.begin_row()
            for row in reader:
                lines.begin_row()
                if not row:
                    continue
                if len(row) != len(columns):
                    raise ValueError(
                        f'{shown(path)}, line {reader.line_num}: {len(row)} fields, but the '
                        f'header has {len(columns)}; put double quotes around a field that holds '
                        f'{delimiter!r}.'
                    )
                if delimiter == '\t' and any('\n' in field for field in row):
                    raise ValueError(
                        f'{shown(path)}, line {reader.line_num}: a field goes on over several '
                        'lines, since it begins with a double quote; write such quotes twice and '
                        'put the field in quotes, or save the pairs as .csv or .jsonl.'
                    )
                yield f'line {reader.line_num}', dict(zip(columns, row, strict=True))
        except csv.Error as error:
            raise ValueError(
                f'{shown(path)}, line {reader.line_num}: {error}; check the quoting '
                '(inside a quoted field a double quote is written twice).'
            ) from error


def _read_tsv(path: Path) -> Iterator[NumberedRow]:
    return _read_csv(path, delimiter='\t')
