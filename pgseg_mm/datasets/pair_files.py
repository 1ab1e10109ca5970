"""Reading of annotation files and folders of image-text pairs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from .skips import CAPTION_NOT_UTF8, MISSING_CAPTION, MISSING_IMAGE, UnusableSample

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
BATCH_ROWS = 65536

Row = dict[str, Any] | UnusableSample
NumberedRow = tuple[str, Row]
"""Where a row stands ('line 7') and its columns, or why it cannot be used."""


def read_rows(path: Path, image_key: str, caption_key: str) -> Iterator[NumberedRow]:
    """Rows of an annotation file, or of a folder of images with captions beside them.

    Args:
        path: ``.json``, ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``; or a folder, where the
            caption of ``a/b.jpg`` is ``a/b.txt``.
        image_key: Column of the image's path.
        caption_key: Column of the caption.

    Yields:
        Where the row stands, and its columns; of a Parquet file and a folder these two only. A file
        in a folder without its partner, or with a caption that is not UTF-8, comes as an
        :class:`UnusableSample`.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ImportError: The file is Parquet and pyarrow is not installed.
        ValueError: The file has another suffix or is malformed.
    """
    if path.is_dir():
        yield from _read_folder(path, image_key, caption_key)
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
            f'Annotation file {str(path)!r} has the suffix {path.suffix!r}; '
            f'expected one of {sorted((*readers, ".parquet"))}, or a folder.'
        )
    if not path.is_file():
        raise FileNotFoundError(
            f'Annotation file {path} does not exist; check ann_file and data_root '
            '(a relative ann_file is joined to data_root).'
        )
    try:
        if suffix == '.parquet':
            yield from _read_parquet(path, [image_key, caption_key])
        else:
            yield from readers[suffix](path)
    except UnicodeDecodeError as error:
        raise ValueError(f'Annotation file {path} is not UTF-8 text; save it as UTF-8.') from error


def _read_folder(folder: Path, image_key: str, caption_key: str) -> Iterator[NumberedRow]:
    files = sorted(file for file in folder.rglob('*') if file.is_file())
    images = {file for file in files if file.suffix.lower() in IMAGE_SUFFIXES}
    stems = {image.with_suffix('') for image in images}
    for file in files:
        place = str(file.relative_to(folder))
        if file in images:
            yield place, _sidecar_row(file, image_key, caption_key)
        elif file.suffix == '.txt' and file.with_suffix('') not in stems:
            yield place, UnusableSample(MISSING_IMAGE, f'{file} has no image beside it.')


def _sidecar_row(image: Path, image_key: str, caption_key: str) -> Row:
    text = image.with_suffix('.txt')
    try:
        caption = text.read_text(encoding='utf-8-sig')
    except FileNotFoundError:
        return UnusableSample(MISSING_CAPTION, f'{image} has no {text.name} beside it.')
    except UnicodeDecodeError:
        return UnusableSample(CAPTION_NOT_UTF8, f'{text} is not UTF-8 text.')
    return {image_key: str(image), caption_key: caption}


def _read_parquet(path: Path, columns: list[str]) -> Iterator[NumberedRow]:
    """Only the columns that are asked for, a batch of rows at a time."""
    parquet = _import_parquet()
    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are derived from these
        raise ValueError(f'{path} cannot be read as Parquet: {error}') from error
    with file:
        known = file.schema_arrow.names
        columns = list(dict.fromkeys(column for column in columns if column in known))
        if len(columns) < 2:
            yield 'its schema', dict.fromkeys(known, '')
        number = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            values = (column.to_pylist() for column in batch.columns)
            for row in zip(*values, strict=True):
                number += 1
                yield f'row {number}', dict(zip(batch.schema.names, row, strict=True))


def _import_parquet() -> ModuleType:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            'Reading Parquet files needs pyarrow, which is not installed; '
            'run: pip install "pgseg-mm[data]"'
        ) from error
    return parquet


def _read_json(path: Path) -> Iterator[NumberedRow]:
    try:
        rows = json.loads(path.read_text(encoding='utf-8-sig'))
    except json.JSONDecodeError as error:
        raise ValueError(f'{path}, line {error.lineno}: invalid JSON: {error.msg}.') from error
    if not isinstance(rows, list):
        raise ValueError(
            f'{path} holds a JSON {type(rows).__name__}; expected a list with one object a pair.'
        )
    for number, row in enumerate(rows, start=1):
        yield _checked_object(path, f'entry {number}', row)


def _read_json_lines(path: Path) -> Iterator[NumberedRow]:
    with path.open(encoding='utf-8-sig') as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f'{path}, line {number}: invalid JSON: {error.msg}.') from error
            yield _checked_object(path, f'line {number}', row)


def _checked_object(path: Path, place: str, row: Any) -> NumberedRow:
    if not isinstance(row, dict):
        raise ValueError(
            f'{path}, {place}: found a JSON {type(row).__name__}; '
            'expected an object with the image and the caption.'
        )
    return place, row


def _read_csv(path: Path, delimiter: str = ',') -> Iterator[NumberedRow]:
    with path.open(encoding='utf-8-sig', newline='') as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            columns = [column.strip() for column in next(reader, [])]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(columns):
                    raise ValueError(
                        f'{path}, line {reader.line_num}: {len(row)} fields, but the header has '
                        f'{len(columns)}; put double quotes around a field that holds '
                        f'{delimiter!r}.'
                    )
                yield f'line {reader.line_num}', dict(zip(columns, row, strict=True))
        except csv.Error as error:
            raise ValueError(
                f'{path}, line {reader.line_num}: {error}; check the quoting '
                '(inside a quoted field a double quote is written twice).'
            ) from error


def _read_tsv(path: Path) -> Iterator[NumberedRow]:
    return _read_csv(path, delimiter='\t')
