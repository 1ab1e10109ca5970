"""Lists of image addresses and captions for img2dataset; what the converters beside this share."""

import argparse
import bz2
import csv
import gzip
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pgseg_mm.serialization.loading import write_atomically

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise SystemExit(f'Parquet files need pyarrow ({error}); install the extra data') from error

ROW_GROUP = 65536
"""Rows that are held in memory and written at a time."""
BAD_TEXT = 'not UTF-8'
NO_ADDRESS = 'no http address'
NO_CAPTION = 'empty caption'


class ListError(ValueError):
    """An input is not what it should be."""


class Pair(NamedTuple):
    """An image's address, its caption, and further columns."""

    url: str
    caption: str
    extra: tuple[str, ...] = ()


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the output, which all converters have."""
    parser.add_argument(
        'out', type=Path, help='file to write: .parquet, or .tsv with a header line'
    )


def write_list(
    pairs: Iterable[Pair],
    left_out: Counter[str],
    out: Path,
    extra: tuple[str, ...],
    inputs: Sequence[Path],
) -> None:
    """Write pairs, and print how many there are and what was left out.

    Leaves with a message and status 1 if an input is faulty; an earlier file is then still there.

    Args:
        pairs: What to write. They are read once, and not kept.
        left_out: Filled while ``pairs`` are read: rows that were left out, for each reason.
        out: File to write.
        extra: Names of the further columns.
        inputs: The files that the pairs are read from.
    """
    try:
        if out.exists() and any(file.samefile(out) for file in inputs if file.exists()):
            raise ListError(f'{out} is read, and would be written over; name another file')
        count = write_pairs(pairs, left_out, out, extra)
    except (ListError, OSError) as error:
        sys.exit(f'error: {error}')
    print(f'{out}: {count} pairs')
    for reason, rows in left_out.most_common():
        print(f'left out: {rows} ({reason})')


def write_pairs(
    pairs: Iterable[Pair], left_out: Counter[str], out: Path, extra: tuple[str, ...]
) -> int:
    """Write the usable pairs to a file, which appears when it is complete.

    Returns:
        Number of pairs.

    Raises:
        ListError: If the file has another suffix, or nothing is left to write.
    """
    writers = {'.parquet': _write_parquet, '.tsv': _write_tsv}
    if out.suffix not in writers:
        raise ListError(f'{out} must end in .parquet or .tsv')
    usable = _usable(pairs, left_out)
    first = next(usable, None)
    if first is None:
        reasons = ', '.join(f'{rows} times {reason}' for reason, rows in left_out.most_common())
        raise ListError(f'no usable row was found ({reasons or "no row at all"})')
    count = 0

    def write(path: Path) -> None:
        nonlocal count
        count = writers[out.suffix](path, chain([first], usable), ('url', 'caption', *extra))

    write_atomically(out, write)
    return count


def _usable(pairs: Iterable[Pair], left_out: Counter[str]) -> Iterator[Pair]:
    for pair in pairs:
        caption = ' '.join(pair.caption.split())
        url = pair.url.strip()
        if not url.lower().startswith(('http://', 'https://')):
            left_out[NO_ADDRESS] += 1
        elif not caption:
            left_out[NO_CAPTION] += 1
        elif not _is_text(url, caption, *pair.extra):
            left_out[BAD_TEXT] += 1
        else:
            yield Pair(url, caption, pair.extra)


def _is_text(*texts: str) -> bool:
    """Whether texts can be written; JSON may name halves of letters."""
    try:
        ''.join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _write_parquet(path: Path, pairs: Iterator[Pair], columns: tuple[str, ...]) -> int:
    schema = pa.schema([(column, pa.string()) for column in columns])
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        while rows := [(p.url, p.caption, *p.extra) for p in islice(pairs, ROW_GROUP)]:
            arrays = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            count += len(rows)
    return count


def _write_tsv(path: Path, pairs: Iterator[Pair], columns: tuple[str, ...]) -> int:
    """As img2dataset's reader (Arrow's) takes it: a field with quotes is quoted."""
    count = 0
    with path.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, delimiter='\t', lineterminator='\n')
        writer.writerow(columns)
        for count, pair in enumerate(pairs, start=1):  # noqa: B007
            writer.writerow((pair.url, pair.caption, *pair.extra))
    return count


def read_fields(path: Path, fields: int, left_out: Counter[str]) -> Iterator[list[str]]:
    """Fields of each line of a tab-separated file without quoting.

    Args:
        path: A text file, or one compressed with gzip or bzip2.
        fields: Number of fields in a line.
        left_out: Counts lines with another number of fields, or that are not UTF-8.

    Raises:
        ListError: If a compressed file is damaged or cut off.
    """
    openers: dict[str, Any] = {'.gz': gzip.open, '.bz2': bz2.open}
    with openers.get(path.suffix, open)(path, 'rb') as file:
        for number, line in enumerate(_lines(file, path)):
            try:
                row = line.decode('utf-8' if number else 'utf-8-sig').rstrip('\r\n').split('\t')
            except UnicodeDecodeError:
                left_out[BAD_TEXT] += 1
                continue
            if len(row) == fields:
                yield row
            else:
                left_out[f'not {fields} fields'] += 1


def _lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    try:
        yield from file
    except (EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's
        raise ListError(f'{path} is damaged or cut off: {error}; get it again') from error


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        ListError: If it is none.
    """
    try:
        return json.loads(path.read_bytes())
    except (RecursionError, ValueError) as error:  # bad JSON, or bad UTF-8
        raise ListError(f'{path} is not JSON: {error}') from error
