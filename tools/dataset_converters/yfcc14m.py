"""YFCC14M: CLIP's subset of YFCC100M as a list for img2dataset.

    python tools/dataset_converters/yfcc14m.py yfcc100m_subset_data.tsv.bz2 \\
        yfcc100m_dataset.bz2 data/yfcc14m.parquet

The subset lists line, photo and hash of 14 829 396 photos, the first three columns of YFCC100M's
metadata (25 columns, one photo or video a line). Titles and descriptions are URL-decoded, and lose
HTML tags and addresses; the caption is the title, then the description. Both inputs are read as
they are or compressed with bzip2 or gzip; the ids of the subset are held in memory, 8 bytes each.
"""

import argparse
import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from urllib.parse import unquote_plus

import numpy as np
from pair_lists import ListError, Pair, add_output, read_fields, write_list

COLUMNS = 25
PHOTO, TITLE, DESCRIPTION, ADDRESS, MARKER = 1, 8, 9, 16, 24
TAG = re.compile(r'<[^<>]*>')
LINK = re.compile(r'\b(?:https?://|www\.)\S+')
ROWS_AT_A_TIME = 65536


def clean(text: str) -> str:
    """Plain text of a title or description: decoded, without tags, addresses and line breaks."""
    text = html.unescape(TAG.sub(' ', unquote_plus(text)))
    return ' '.join(LINK.sub(' ', text).split())


def joined_caption(title: str, description: str) -> str:
    """The title as a sentence, then the description, which often begins by repeating it."""
    if not title or description.lower().startswith(title.lower()):
        return description
    if description and title[-1].isalnum():
        title += '.'
    return f'{title} {description}'.strip()


def read_subset(path: Path) -> np.ndarray:
    """Sorted ids of the subset's photos.

    Raises:
        ListError: If a line is not line, photo and hash.
    """
    wrong: Counter[str] = Counter()
    try:
        ids = np.fromiter((int(row[1]) for row in read_fields(path, 3, wrong)), dtype=np.int64)
    except ListError:
        raise
    except (OverflowError, ValueError) as error:
        raise ListError(f'{path}: the second column must be a photo id: {error}') from error
    if wrong or not len(ids):
        raise ListError(f'{path} is not the subset: expected line, photo id and hash in each line')
    ids.sort()
    return ids


def read_metadata(
    paths: Iterable[Path], subset: np.ndarray, part: str, left_out: Counter[str]
) -> Iterator[Pair]:
    """Pairs of the photos in the subset, with their ids."""
    rows = chain.from_iterable(read_fields(path, COLUMNS, left_out) for path in paths)
    found = 0
    while block := list(islice(rows, ROWS_AT_A_TIME)):
        try:
            ids = np.array([row[PHOTO] for row in block]).astype(np.int64)
        except (OverflowError, ValueError) as error:
            raise ListError(f'column {PHOTO} of the metadata must be a photo id: {error}') from None
        places = np.searchsorted(subset, ids).clip(max=len(subset) - 1)
        for index in np.flatnonzero(subset[places] == ids):
            found += 1
            row = block[index]
            if row[MARKER] != '0':
                left_out['a video'] += 1
                continue
            title = clean(row[TITLE]) if part != 'description' else ''
            description = clean(row[DESCRIPTION]) if part != 'title' else ''
            yield Pair(row[ADDRESS], joined_caption(title, description), (row[PHOTO],))
    if found < len(subset):
        left_out['in the subset, but not in the metadata'] += len(subset) - found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('subset', type=Path, help='yfcc100m_subset_data.tsv[.bz2]')
    parser.add_argument('metadata', type=Path, nargs='+', help='yfcc100m_dataset[.bz2], or parts')
    add_output(parser)
    parser.add_argument(
        '--caption',
        choices=['both', 'title', 'description'],
        default='both',
        help='what the caption is made of (default: %(default)s)',
    )
    args = parser.parse_args()
    left_out: Counter[str] = Counter()
    try:
        subset = read_subset(args.subset)
    except (ListError, OSError) as error:
        parser.error(str(error))
    pairs = read_metadata(args.metadata, subset, args.caption, left_out)
    inputs = [args.subset, *args.metadata]
    write_list(pairs, left_out, args.out, ('photo_id',), inputs)


if __name__ == '__main__':
    main()
