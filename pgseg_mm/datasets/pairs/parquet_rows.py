"""Rows of Parquet files: captions and paths at once, images that lie in them on demand."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pgseg_mm import limits
from pgseg_mm.files.reading import FileAccessError, is_of_system, retrying
from pgseg_mm.messages import shown

PATH, BYTES = 'path', 'bytes'
"""Fields of an image in a file that Hugging Face's datasets has written."""
VALIDITY_ROWS = 64
"""Rows whose images are held at a time where only looking tells which are there."""


class ImageInRow(NamedTuple):
    """An image that lies in a row."""

    row: int
    """From 0."""
    path: str | None
    """What the file was called."""


class ParquetRows:
    """Reads a Parquet file.

    Args:
        path: The file.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: The file is malformed, or declares more rows or bytes than its size allows.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._parquet = import_parquet()
        self._file = self._open()
        metadata = self._file.metadata
        size = os.path.getsize(self.path)
        if metadata.num_rows > limits.MAX_PARQUET_ROWS + size:
            raise ValueError(
                f'{shown(self.path)} declares {metadata.num_rows} rows in {size} bytes.'
            )
        groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._starts = [0, *accumulate(groups)]
        self._held: tuple[int, Any] = (-1, None)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self._file.schema_arrow.names

    def pairs(self, image_key: str, caption_key: str, batch_rows: int) -> Iterator[tuple[Any, Any]]:
        """Images and captions, of which only these columns are read.

        An image is its path, or :class:`ImageInRow`, or None; a caption is whatever stands there.

        Args:
            image_key: Column of a path, of bytes, or of a struct of ``bytes`` and ``path``.
            caption_key: Column of a caption or of a list of them.
            batch_rows: Rows that are read at a time.

        Raises:
            ValueError: The file is malformed.
        """
        types = _arrow().types
        kind = self._file.schema_arrow.field(image_key).type
        names = (
            {kind.field(n).name for n in range(kind.num_fields)} if types.is_struct(kind) else ()
        )
        in_rows = types.is_binary(kind) or types.is_large_binary(kind) or BYTES in names
        columns = [caption_key]
        if PATH in names:
            columns.insert(0, f'{image_key}.{PATH}')
        elif not in_rows:
            columns.insert(0, image_key)
        columns = list(dict.fromkeys(columns))
        image_bytes = f'{image_key}.{BYTES}' if BYTES in names else image_key
        self._check_size([*columns, *([image_bytes] if in_rows else [])])
        present = self._present(image_bytes) if in_rows else None
        row = 0
        try:
            for batch in self._file.iter_batches(batch_size=batch_rows, columns=columns):
                values = {name: _values(batch.column(name)) for name in batch.schema.names}
                for n, caption in enumerate(values[caption_key]):
                    image = values[image_key][n] if image_key in values else None
                    if PATH in names:
                        image = (image or {}).get(PATH)
                    if present is not None and next(present):
                        image = ImageInRow(row, image if isinstance(image, str) else None)
                    yield image, caption
                    row += 1
        except (OSError, ValueError) as error:  # pyarrow's errors are derived from these
            raise self._malformed(error) from error

    def image(self, row: int, image_key: str) -> bytes | None:
        """Bytes of the image in a row. The images of its row group are kept for the next one.

        Args:
            row: Its number, from 0.
            image_key: Column of the image.

        Raises:
            FileAccessError: The system cannot read the file, several times where that may pass.
            ValueError: The row group is malformed.
        """
        group = bisect_right(self._starts, row) - 1
        if self._held[0] != group:
            kind = self._file.schema_arrow.field(image_key).type
            column = f'{image_key}.{BYTES}' if _arrow().types.is_struct(kind) else image_key
            read = partial(self._file.read_row_group, group, columns=[column])
            try:
                table = retrying(read, shown(self.path), is_of_system)
            except FileAccessError:
                raise
            except (OSError, ValueError) as error:
                raise self._malformed(error) from error
            self._held = group, table.column(0)
        value = self._held[1][row - self._starts[group]].as_py()
        return value.get(BYTES) if isinstance(value, dict) else value

    def __reduce__(self) -> tuple:
        return type(self), (self.path,)

    def _open(self) -> Any:
        try:
            file = self._parquet.ParquetFile(self.path)
            texts = [
                field.name
                for field in file.schema_arrow
                if _arrow().types.is_string(field.type)
                or _arrow().types.is_large_string(field.type)
            ]
            file.close()
            # A text that many rows share is then held once.
            return self._parquet.ParquetFile(self.path, read_dictionary=texts)
        except (OSError, ValueError) as error:
            raise self._malformed(error) from error

    def _malformed(self, error: Exception) -> ValueError:
        return ValueError(f'{shown(self.path)} cannot be read as Parquet: {shown(error)}')

    def _check_size(self, columns: list[str]) -> None:
        metadata = self._file.metadata
        limit = limits.MAX_PARQUET_BATCH_BYTES + 2 * os.path.getsize(self.path)
        for group in range(metadata.num_row_groups):
            chunks = metadata.row_group(group)
            for number in range(chunks.num_columns):
                chunk = chunks.column(number)
                if chunk.path_in_schema.split('.')[0] not in {c.split('.')[0] for c in columns}:
                    continue
                if chunk.total_uncompressed_size > limit:
                    raise ValueError(
                        f'{shown(self.path)} declares {chunk.total_uncompressed_size} bytes in '
                        f'column {shown(chunk.path_in_schema)} of a row group, more than {limit}.'
                    )

    def _present(self, column: str) -> Iterator[bool]:
        """For each row whether it has an image, by the statistics if they tell."""
        metadata = self._file.metadata
        for group in range(metadata.num_row_groups):
            chunks = metadata.row_group(group)
            found = [
                chunks.column(number)
                for number in range(chunks.num_columns)
                if chunks.column(number).path_in_schema == column
            ]
            statistics = found[0].statistics if found else None
            nulls = statistics.null_count if statistics and statistics.has_null_count else -1
            if nulls in (0, chunks.num_rows):
                yield from (nulls == 0 for _ in range(chunks.num_rows))
                continue
            batches = self._file.iter_batches(VALIDITY_ROWS, row_groups=[group], columns=[column])
            for batch in batches:
                values = batch.column(0)
                if _arrow().types.is_struct(values.type):
                    values = values.field(0)
                yield from values.is_valid().to_pylist()


def _values(column: Any) -> list[Any]:
    if not _arrow().types.is_dictionary(column.type):
        return column.to_pylist()
    values = column.dictionary.to_pylist()
    return [None if index is None else values[index] for index in column.indices.to_pylist()]


def _arrow() -> ModuleType:
    import pyarrow

    return pyarrow


def import_parquet() -> ModuleType:
    """Pyarrow's module, which is not installed by default.

    Raises:
        ImportError: It is missing.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            'Reading Parquet files needs pyarrow, which is not installed; '
            'run: pip install "pgseg-mm[data]"'
        ) from error
    return parquet
