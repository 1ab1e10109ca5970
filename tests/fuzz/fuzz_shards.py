"""Tar shards: headers of every kind, compression, names, JSON and statistics."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from itertools import count

from .mutations import mutate

TYPES = [
    b'0',
    b'\0',
    b'1',
    b'2',
    b'3',
    b'5',
    b'6',
    b'7',
    b'g',
    b'x',
    b'X',
    b'L',
    b'K',
    b'S',
    b'V',
    b'?',
]
SUFFIXES = ['.jpg', '.JPG', '.png', '.txt', '.json', '.tif', '.npy', '']
NAMES = [
    'a',
    '../../a',
    '/etc/passwd',
    'a' * 300,
    'd/' * 90 + 'a',
    'caf\udce9',
    '\x1b[31m',
    '__a',
    '.a',
]
SIZES = [0, 1, 511, 512, 513, 2**31, 2**33, 2**40, 2**62]
KEYWORDS = [
    'size', 'path', 'linkpath', 'mtime', 'hdrcharset', 'GNU.sparse.map', 'GNU.sparse.size',
    'GNU.sparse.realsize', 'GNU.sparse.major', 'GNU.sparse.minor', 'GNU.sparse.name',
    'GNU.sparse.numblocks', 'GNU.sparse.offset', 'GNU.sparse.numbytes', 'comment', 'a',
]  # fmt: skip
VALUES = [
    b'0', b'1', b'-1', b'-512', b'-1024', b'1e9', b'9' * 18, b'9' * 400, b'nan', b'0,512',
    b'BINARY',
    b'0,99999999999', b',' * 99, b'../../b.jpg', b'\xff\xfe', b'b.jpg', b'', b'1\n2', b'4294967296',
]  # fmt: skip
TEXTS = [
    b'a cat', b'', b' \n', b'\xff\xfe', '🐈'.encode(), b'[' * 50000, b'{"caption": "a cat"}',
    b'{"caption": null}', b'{"caption": "\\ud800"}', b'{"caption": 1%s}' % (b'0' * 5000), b'{',
    b'[]', b'{"caption": NaN}', b'x' * 100000,
]  # fmt: skip
DEPTHS = [1, 3, 40, 400, 3000]


def prepare() -> None:
    import torch
    from mmseg.utils import register_all_modules

    import pgseg_mm.datasets  # noqa: F401

    torch.set_num_threads(1)
    register_all_modules(init_default_scope=True)
    attempt_on(_tar([_member('a.jpg', _image()), _member('a.txt', b'a cat')]))


def attempt_on(content: bytes) -> None:
    """Warm up: what is imported on the first use is then there."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'a.tar'
        for packed in (content, *(pack.compress(content) for pack in (gzip, bz2, lzma))):
            path.write_bytes(packed)
            attempt(str(path))


def cases(seed: int) -> Iterator[tuple[str, bytes]]:
    rng = random.Random(seed)
    for number in count():
        kind = rng.choice([_headers, _headers, _chains, _mutated, _mutated, _packed, _bombs])
        yield f'{kind.__name__[1:]} {number}::.tar', kind(rng)


def attempt(path: str) -> None:
    from pgseg_mm.datasets import WebImageTextDataset
    from pgseg_mm.datasets.pairs.shards import read_shard
    from pgseg_mm.datasets.pairs.skips import UnusableSample
    from pgseg_mm.datasets.sampling.sample_key import SampleKey

    fault = None
    usable = 0
    try:
        for sample in read_shard(path):
            try:
                sample.pair('caption')
                usable += 1
            except UnusableSample as error:
                assert len(str(error)) < 600, 'a long message'
                fault = error
    except UnusableSample as error:
        fault = error
    if usable:
        source = dict(shards=path, name='fuzz')
        dataset = WebImageTextDataset(source, [dict(type='DecodeImage')], samples_per_epoch=9)
        dataset.set_progress(1)
        dataset[SampleKey(0, 0, 0, 0)]
    if fault is not None:
        raise fault


def _refusals() -> tuple[type[Exception], ...]:
    from pgseg_mm.datasets.pairs.skips import UnusableSample

    return UnusableSample, RuntimeError  # no usable sample in a source


REFUSALS = _refusals()


@lru_cache
def _image() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.effect_noise((16, 12), 40).convert('RGB').save(file, 'JPEG')
    return file.getvalue()


def _member(name: str, content: bytes = b'', kind: bytes = b'0', size: int | None = None) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(content) if size is None else size
    header = info.tobuf(tarfile.GNU_FORMAT, 'utf-8', 'surrogateescape')
    return header + content + bytes(-len(content) % 512)


def _tar(parts: list[bytes]) -> bytes:
    return b''.join(parts) + bytes(1024)


def _pair(rng: random.Random, key: str) -> list[bytes]:
    text = rng.choice(TEXTS)
    suffix = '.json' if text[:1] in (b'{', b'[') else '.txt'
    return [_member(f'{key}.jpg', _image()), _member(key + suffix, text)]


def _record(keyword: bytes, value: bytes) -> bytes:
    line = b' %s=%s\n' % (keyword, value)
    length = len(line) + 1
    while len(str(length)) + len(line) != length:
        length = len(str(length)) + len(line)
    return b'%d%s' % (length, line)


def _pax(rng: random.Random, kind: bytes = b'x') -> bytes:
    records = [
        _record(rng.choice(KEYWORDS).encode(), rng.choice(VALUES)) for _ in range(rng.randint(1, 5))
    ]
    if rng.random() < 0.1:
        records = [b'2 ' * rng.randint(1, 30000) + b'=']
    if rng.random() < 0.1:
        records = [mutate(rng, b''.join(records))]
    return _member('x', b''.join(records), kind)


def _sparse(rng: random.Random) -> bytes:
    block = bytearray(_member('b.jpg', kind=b'S')[:512])
    for at in range(386, 482, 12):
        block[at : at + 12] = b'%011o\0' % rng.choice([0, 512, 2**30])
    block[482] = rng.randrange(2)
    block[483:495] = b'%011o\0' % rng.choice([0, 512, 2**32])
    return _summed(block) + bytes(rng.choice([0, 512, 5120]))


def _summed(block: bytearray) -> bytes:
    block[148:156] = b' ' * 8
    block[148:156] = b'%06o\0 ' % sum(block[:512])
    return bytes(block)


def _odd_size(rng: random.Random) -> bytes:
    """A size in base 256, which may be negative."""
    block = bytearray(_member('b.jpg')[:512])
    number = rng.choice([-1, -512, -(2**40), 2**40, 2**63, 2**80])
    block[124:136] = (number % 256**12).to_bytes(12, 'big')
    block[124] = 0xFF if number < 0 else 0x80
    return _summed(block)


def _headers(rng: random.Random) -> bytes:
    parts = _pair(rng, '0')
    for _ in range(rng.randint(1, 6)):
        name = rng.choice(NAMES) + rng.choice(SUFFIXES)
        parts += rng.choice(
            [
                lambda: [_pax(rng), _member('b.jpg', _image()), _member('b.txt', b'b')],
                lambda: [_pax(rng, b'g'), *_pair(rng, 'c')],
                lambda: [_sparse(rng), _member('b.txt', b'b')],
                lambda: [_odd_size(rng)],
                lambda name=name: [_member(name, b'x' * rng.choice([0, 5]), rng.choice(TYPES))],
                lambda name=name: [_member(name, size=rng.choice(SIZES), kind=rng.choice(TYPES))],
                lambda: [_member('b.jpg', size=rng.choice(SIZES)), _member('b.txt', b'b')],
            ]
        )()
    return _tar([*parts, *_pair(rng, '9')])


def _chains(rng: random.Random) -> bytes:
    depth = rng.choice(DEPTHS)
    kind = rng.choice([b'x', b'g', b'L', b'K', b'X', b'S'])
    link = _sparse(rng) if kind == b'S' else _member('x', b'6 a=b\n', kind)
    return _tar([*_pair(rng, '0'), link * depth, *_pair(rng, '9')])


def _mutated(rng: random.Random) -> bytes:
    content = rng.choice([_headers, _sound])(rng)
    return mutate(rng, content)


def _sound(rng: random.Random) -> bytes:
    return _tar([part for number in range(3) for part in _pair(rng, str(number))])


def _packed(rng: random.Random) -> bytes:
    pack = rng.choice([gzip.compress, bz2.compress, lzma.compress])
    content = rng.choice([_headers, _sound, _mutated])(rng)
    packed = pack(content)
    return mutate(rng, packed, 3) if rng.random() < 0.7 else packed


def _bombs(rng: random.Random) -> bytes:
    """Small files that unpack to much: in members of known and unknown kinds, in padding."""
    size = rng.choice([2**20, 2**24, 2**26, 2**27])
    name = rng.choice(['b.jpg', 'b.txt', 'b.json', 'b.npy', 'b.png'])
    pack = rng.choice([lambda c: gzip.compress(c, 1), lambda c: lzma.compress(c, preset=0)])
    if size > 2**24 and rng.random() < 0.9:  # packing takes time
        size = 2**22
    parts = [*_pair(rng, '0'), _member(name, bytes(size)) * rng.choice([1, 1, 4])]
    return pack(_tar([*parts, *_pair(rng, '9')]))
