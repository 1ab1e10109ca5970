"""Annotation files of pairs in all formats, label JSON in COCO's format, and vocabularies."""

from __future__ import annotations

import csv
import io
import json
import random
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from .mutations import mutate
from .watch import TESTS

CONVERTERS = TESTS.parent / 'tools' / 'dataset_converters'
PATHS = [
    'cat.png', './cat.png', '../cat.png', '../../../../etc/passwd', '/etc/passwd', '/dev/zero', '',
    ' ', 'http://127.0.0.1:1/a.png', 's3://a/b.png', 'file:///etc/passwd', 'x://y',
    'a' * 300 + '.png',
    'a/' * 3000, 'caf\udce9.png', '\ud800', 'a\0b', 'a\nb.png', '\x1b[31m', 'NaN', 'c:\\a.png', '~',
]  # fmt: skip
CAPTIONS = [
    'a cat', '', ' ', 'NaN', 'nan', '\ud800', 'x' * 200000, '🐈' * 50, '"', ',', '\t', 'a\nb', '\0',
    '=cmd|x', '{}',
]  # fmt: skip
VALUES: list[Any] = [
    None, True, 3, -1, 10**400, 1.5, float('nan'), float('inf'), [], ['a', 'b'], [None, 3], {},
    {'path': 'cat.png', 'bytes': None}, {'path': '/etc/passwd'}, {'bytes': 'x'}, [[['a']]], 'a cat',
]  # fmt: skip
PLACES = ['image', 'caption', 'more', '', 'x' * 5000, 'im\nage']
WORDS = [
    'dog', 'cat, kitten', '', ' ', '#', ',', 'a,,b', '"dog"', "'dog'", '1 dog', '1: dog',
    'x' * 9999,
    'St. Bernard', 'dog\tpuppy', '["dog", "cat"]', '{"a": 1}', '\0', '\x1b[31m', '\ud800', 'Dog',
]  # fmt: skip
MORE_TYPES = ('.csv', '.tsv', '.json', '.jsonl', '.parquet')
NUL = '\ue000'
"""Stands for a NUL in rows, which csv of Python 3.10 does not write."""


def prepare() -> None:
    from mmseg.utils import register_all_modules

    import pgseg_mm.datasets  # noqa: F401
    from pgseg_mm.text.vocabulary import Vocabulary

    register_all_modules(init_default_scope=True)
    sys.path.insert(0, str(CONVERTERS))
    import pyarrow.parquet  # noqa: F401
    import segment_maps  # noqa: F401

    Vocabulary.from_file('voc21')


def cases(seed: int) -> Iterator[tuple[str, bytes]]:
    rng = random.Random(seed)
    kinds: list[tuple[Callable[[random.Random], bytes], str]] = [
        (_json, '.json'),
        (_json_lines, '.jsonl'),
        (_csv, '.csv'),
        (_tsv, '.tsv'),
        (_parquet, '.parquet'),
        (_labels, '_labels.json'),
        (_vocabulary, '_words.txt'),
        (_vocabulary_json, '_words.json'),
    ]
    for number in count():
        make, suffix = rng.choice(kinds)
        content = make(rng)
        changed = rng.random() < 0.5
        if changed:
            content = mutate(rng, content)
        yield f'{make.__name__[1:]}{" changed" * changed} {number}::{suffix}', content


def attempt(path: str) -> None:
    from pgseg_mm.datasets import ImageTextDataset
    from pgseg_mm.text.vocabulary import Vocabulary

    folder = Path(path).parent
    if path.endswith('_labels.json'):
        _attempt_labels(Path(path))
    elif '_words' in path:
        Vocabulary.from_file(path)
    else:
        (folder / 'cat.png').write_bytes(CAT)
        dataset = ImageTextDataset(
            path, data_root=str(folder), pipeline=[dict(type='DecodeImage')], max_refetch=5
        )
        for index in range(min(len(dataset), 3)):
            dataset[index]


def _attempt_labels(path: Path) -> None:
    from collections import Counter

    import numpy as np
    from segment_maps import draw_labels, group_by_image, read_annotations

    content = read_annotations(path)
    labels = {1: 1, 2: 2}
    for image in group_by_image(content, labels, lambda image: image['file_name'], Counter()):
        draw_labels(image, np.uint8)


REFUSALS = (ValueError, RuntimeError)  # the latter where no pair can be used


def _png() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new('RGB', (4, 4)).save(file, 'PNG')
    return file.getvalue()


CAT = _png()


def _row(rng: random.Random) -> dict[str, Any]:
    row: dict[str, Any] = {'image': rng.choice(PATHS), 'caption': rng.choice(CAPTIONS)}
    if rng.random() < 0.6:
        row = {'image': 'cat.png', 'caption': 'a cat'}
    if rng.random() < 0.15:
        row[rng.choice(PLACES)] = rng.choice(VALUES)
    if rng.random() < 0.03:
        row.pop(rng.choice(['image', 'caption']))
    return row


def _dump(rng: random.Random, value: Any) -> str:
    text = json.dumps(value, ensure_ascii=rng.random() < 0.7)
    if rng.random() < 0.1:
        depth = rng.choice([10, 900, 5000, 100000])
        opening, closing = rng.choice([('[', ']'), ('{"a":', '}')])
        text = text.replace('}', ', "deep": ' + opening * depth + '1' + closing * depth + '}', 1)
    if rng.random() < 0.1:
        text = text.replace('}', ', "number": ' + '9' * rng.choice([400, 5000, 100000]) + '}', 1)
    return text


def _json(rng: random.Random) -> bytes:
    rows = ','.join(_dump(rng, _row(rng)) for _ in range(rng.randint(0, 6)))
    text = rng.choice(['[%s]'] * 8 + ['%s', '{"a": [%s]}', '[%s', '[[%s]]']) % rows
    return text.encode('utf-8', 'surrogatepass')


def _json_lines(rng: random.Random) -> bytes:
    rows = '\n'.join(_dump(rng, _row(rng)) for _ in range(rng.randint(0, 6)))
    return rows.encode('utf-8', 'surrogatepass')


def _csv(rng: random.Random, delimiter: str = ',') -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(rng.choice([['image', 'caption']] * 9 + [['image'], ['caption', 'image'], []]))
    for _ in range(rng.randint(0, 6)):
        row = list(_row(rng).values())
        if rng.random() < 0.05:
            row += [','] * rng.choice([1, 100000])
        row = [value.replace('\0', NUL) if isinstance(value, str) else 'x' for value in row]
        writer.writerow(row)
    return file.getvalue().replace(NUL, '\0').encode('utf-8', 'surrogatepass')


def _tsv(rng: random.Random) -> bytes:
    return _csv(rng, '\t')


def _parquet(rng: random.Random) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = rng.choice([0, 1, 5, 300])
    texts = [text for text in PATHS if text.isprintable()]
    images: dict[str, Callable[[], Any]] = {
        'text': lambda: pa.array([rng.choice(texts) for _ in range(number)], pa.string()),
        'bytes': lambda: pa.array(
            [rng.choice([CAT, b'', b'x', None]) for _ in range(number)], pa.binary()
        ),
        'struct': lambda: pa.array(
            [rng.choice([{'bytes': CAT, 'path': 'a'}, {'bytes': None, 'path': 'cat.png'}, None])
             for _ in range(number)],
            pa.struct([('bytes', pa.binary()), ('path', pa.string())]),
        ),
        'path only': lambda: pa.array(
            [{'path': 'cat.png'}] * number, pa.struct([('path', pa.string())])
        ),
        'numbers': lambda: pa.array([1.5] * number, pa.float32()),
        'nothing': lambda: pa.nulls(number),
    }  # fmt: skip
    captions: dict[str, Callable[[], Any]] = {
        'text': lambda: pa.array(['a cat'] * number, pa.string()),
        'large': lambda: pa.array(['a cat'] * number, pa.large_string()),
        'lists': lambda: pa.array([['a', 'b']] * number, pa.list_(pa.string())),
        'numbers': lambda: pa.array([float('nan')] * number, pa.float64()),
        'category': lambda: pa.array(['a cat'] * number, pa.string()).dictionary_encode(),
        'struct': lambda: pa.array([{'a': 'x' * 999}] * number, pa.struct([('a', pa.string())])),
        'nothing': lambda: pa.nulls(number),
    }
    image = images[rng.choice([*images, 'text', 'struct'])]()
    caption = captions[rng.choice([*captions, 'text', 'text'])]()
    names = rng.choice([['image', 'caption']] * 9 + [['image', 'x'], ['image.path', 'caption']])
    file = io.BytesIO()
    table = pa.Table.from_arrays([image, caption], names=names)
    pq.write_table(table, file, row_group_size=rng.choice([3, 1000]),
                   compression=rng.choice(['snappy', 'zstd', 'none']),
                   write_statistics=rng.random() < 0.7)  # fmt: skip
    return file.getvalue()


def _labels(rng: random.Random) -> bytes:
    segmentation: list[Any] = [
        [[0, 0, 4, 0, 4, 4]], [[0, 0]], [], [[]], [[float('nan')] * 6], [[1e300] * 8], ['abc'],
        'abc', None,
        {'size': [8, 8], 'counts': [0, 64]}, {'size': [8, 8], 'counts': [2**40]},
        {'size': [8], 'counts': 'x'},
        {'size': [8, 8], 'counts': 'P' * 50}, {'size': [8, 8], 'counts': [-5, 3]},
        {'counts': []}, 7,
        {'size': [8, 8], 'counts': '\u2603'}, [[10**400] * 6], [[0, 0, 4, 0, 4, 4]] * 500,
    ]  # fmt: skip
    sizes = [8, 8, 8, 8, 0, -1, 2**20, 2**40, 'x', None, 1.5]
    image = {'id': 1, 'height': rng.choice(sizes), 'width': rng.choice(sizes), 'file_name': 'a.jpg'}
    annotation = {
        'id': 1,
        'image_id': rng.choice([1, 1, 1, 2, None, [1]]),
        'category_id': rng.choice([1, 1, 2, 99, {}, None]),
        'segmentation': rng.choice(segmentation),
    }
    content: dict[str, Any] = {
        'images': rng.choice([[image]] * 6 + [[], None, [3], {}]),
        'annotations': rng.choice([[annotation] * rng.randint(1, 3)] * 6 + [[], None, ['x'], {}]),
        'categories': [{'id': 1, 'name': 'dog'}],
    }
    if rng.random() < 0.1:
        content.pop(rng.choice(list(content)))
    return _dump(rng, content).encode('utf-8', 'surrogatepass')


def _vocabulary(rng: random.Random) -> bytes:
    lines = [
        rng.choice(WORDS) if rng.random() < 0.4 else f'word {n}' for n in range(rng.randint(0, 9))
    ]
    if rng.random() < 0.02:
        lines = [f'{n}, ' * 1000 for n in range(1000)]
    return rng.choice(['\n', '\r\n', '\r']).join(lines).encode('utf-8', 'surrogatepass')


def _vocabulary_json(rng: random.Random) -> bytes:
    words: list[Any] = [rng.choice([*WORDS, *VALUES]) for _ in range(rng.randint(0, 5))]
    return _dump(rng, rng.choice([words, [words], {'words': words}, words[:1]])).encode(
        'utf-8', 'surrogatepass'
    )
