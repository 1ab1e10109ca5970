"""Hostile shards."""

import gzip
import io
import tarfile
import time
import tracemalloc

import pytest

from hostile_pairs import DEEP, LOAD, read_all
from pgseg_mm.datasets import WebImageTextDataset
from pgseg_mm.datasets.pairs.shards import count_by_stats, read_shard
from pgseg_mm.datasets.sampling.sample_key import SampleKey
from shard_zoo import jpeg, sound, write_tar


def member(name, content=b'', size=None, **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content) if size is None else size
    for field, value in fields.items():
        setattr(info, field, value)
    header = info.tobuf(tarfile.GNU_FORMAT)
    return header + content + b'\0' * (-len(content) % 512)


def pax(name, records, content=b''):
    body = b''.join(records)
    return member('x', body, type=tarfile.XHDTYPE) + member(name, content)


def record(keyword, value):
    for length in range(1, 10**5):
        line = b'%d %s=%s\n' % (length, keyword, value)
        if len(line) == length:
            return line
    raise AssertionError


def old_sparse(size, extended=0):
    """A header as GNU tar wrote it, of a file with nothing but a hole."""
    block = bytearray(member('b.jpg', type=tarfile.GNUTYPE_SPARSE)[:512])
    block[386:410] = b'%011o\0%011o\0' % (0, 0)
    block[482] = extended
    block[483:495] = b'%011o\0' % size
    block[148:156] = b' ' * 8
    block[148:156] = b'%06o\0 ' % sum(block)
    return bytes(block)


PAX_SPARSE = [
    record(b'GNU.sparse.major', b'1'),
    record(b'GNU.sparse.minor', b'0'),
    record(b'GNU.sparse.realsize', b'%d' % 2**32),
]
FIRST = b''.join(member(*part) for part in sound(1))
LAST = b''.join(member(*part) for part in sound(2))
TEXT = member('b.txt', b'b')
END = bytes(1024)
SPARSE_MAP = (b'1\n0\n0\n').ljust(512, b'\0')
REFUSED_MEMBERS = {
    'old sparse': old_sparse(2**32),
    'old sparse with a long map': old_sparse(2**32, 1) + bytes(504) + b'\1' + bytes(7) + bytes(512),
    'sparse by a map in the header': pax(
        'b.jpg', [record(b'GNU.sparse.map', b'0,0'), record(b'GNU.sparse.size', b'%d' % 2**32)]
    ),
    'sparse by a map before the content': pax('b.jpg', PAX_SPARSE, SPARSE_MAP),
    'sparse without a map': pax('b.jpg', PAX_SPARSE, b'x' * 512),
}


def write_shard(path, *parts):
    path.write_bytes(b''.join(parts))
    return str(path)


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('kind', REFUSED_MEMBERS)
def test_a_sparse_member_is_left_out_and_the_shard_read_on(tmp_path, kind, packed):
    content = b''.join([FIRST, REFUSED_MEMBERS[kind], TEXT, LAST, END])
    shard = write_shard(tmp_path / '0.tar', gzip.compress(content) if packed else content)
    tracemalloc.start()
    keys, [fault] = read_all(shard)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert keys == ['00001', '00002']
    assert fault.reason == 'too many bytes'
    assert '0.tar/b is stored as a sparse file' in str(fault)
    assert peak < 1e7


def test_members_above_the_limit_are_left_out_and_the_shard_read_on(tmp_path, monkeypatch):
    monkeypatch.setattr('pgseg_mm.limits.MAX_MEMBER_BYTES', 2000)
    monkeypatch.setattr('pgseg_mm.limits.MAX_TEXT_MEMBER_BYTES', 100)
    large = [('b.jpg', bytes(3000)), ('b.txt', b'b'), ('c.jpg', jpeg(3)), ('c.txt', b'c' * 101)]
    shard = write_tar(tmp_path / '0.tar', [*sound(1), *large, *sound(2)])
    keys, faults = read_all(str(shard))

    assert keys == ['00001', '00002']
    assert [fault.reason for fault in faults] == ['too many bytes'] * 2
    assert '.jpg of' in str(faults[0]) and 'has 3000 bytes, more than 2000' in str(faults[0])


ENDING = {
    'a terabyte': member('b.jpg', size=2**40),
    'a terabyte of a long name': member('././@LongLink', size=2**40, type=tarfile.GNUTYPE_LONGNAME),
    'a terabyte of attributes': member('x', size=2**40, type=tarfile.XHDTYPE),
    'a negative size': pax('b.jpg', [record(b'size', b'-1536')]),
    'a size that leads back': pax('b.jpg', [record(b'size', b'-512')]),
    'a size behind any end': pax('b.jpg', [record(b'size', b'9' * 18)]),
    'a size of many digits': pax(f'{"k" * 200}.jpg', [record(b'size', b'9' * 900)]),
    'headers of headers': member('x', b'6 a=b\n', type=tarfile.XHDTYPE) * 5000,
    'long names of long names': member('x', b'n', type=tarfile.GNUTYPE_LONGNAME) * 5000,
    'a map of letters': pax('b.jpg', [record(b'GNU.sparse.map', b'a,b')]),
    'an unknown character set': pax('b.jpg', [b'18 hdrcharset=\xff\xfe\n']),
}


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('kind', ENDING)
def test_a_header_costs_no_more_than_its_shard(tmp_path, kind, packed):
    content = b''.join([FIRST, ENDING[kind], LAST, END])
    shard = write_shard(tmp_path / '0.tar', gzip.compress(content) if packed else content)
    began = time.monotonic()
    tracemalloc.start()
    keys, faults = read_all(shard)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert keys[0] == '00001'
    assert keys == ['00001', '00002'] or faults[-1].reason == 'broken shard'
    assert all(len(str(fault)) < 600 for fault in faults)
    assert peak < 1e8
    assert time.monotonic() - began < 20


def test_a_compressed_shard_unpacks_no_further_than_agreed(tmp_path, monkeypatch):
    monkeypatch.setattr('pgseg_mm.limits.UNPACKING_ALLOWANCE', 10**5)
    bomb = member('b.bin', bytes(10**7))
    shard = write_shard(tmp_path / '0.tar.gz', gzip.compress(FIRST + bomb + LAST + END))
    keys, [fault] = read_all(shard)

    assert keys == ['00001']
    assert fault.reason == 'broken shard' and 'unpacks to more than' in str(fault)


@pytest.mark.parametrize('kind', ['gz', 'bz2', 'xz'])
def test_compressed_shards_are_read_as_before(tmp_path, kind):
    shard = tmp_path / f'0.tar.{kind}'
    with tarfile.open(shard, f'w:{kind}') as archive:
        for name, content in [*sound(1), *sound(2)]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

    assert read_all(str(shard)) == (['00001', '00002'], [])
    shard.write_bytes(shard.read_bytes()[:-60])
    assert read_all(str(shard))[1][-1].reason == 'broken shard'


def test_a_block_of_samples_is_held_only_as_far_as_its_shard_allows(tmp_path, monkeypatch):
    monkeypatch.setattr('pgseg_mm.limits.HELD_ALLOWANCE', 10**4)
    parts = [member(f'{n}.jpg', bytes(5000)) + member(f'{n}.txt', b'x') for n in range(20)]
    shard = write_shard(tmp_path / '0.tar', gzip.compress(b''.join([*parts, END])))
    dataset = WebImageTextDataset(dict(shards=shard, name='zoo'), LOAD, samples_per_epoch=9)
    dataset.set_progress(1)

    with pytest.raises(RuntimeError, match=r'no usable sample .* broken shard'):
        dataset[SampleKey(0, 0, 0, 0)]


@pytest.mark.parametrize('content', [DEEP, '{"caption": %s}' % ('9' * 5000)])
def test_json_of_a_shard_cannot_end_the_run(tmp_path, content):
    bad = [('b.jpg', jpeg(1)), ('b.json', content.encode())]
    shard = write_tar(tmp_path / '0.tar', [*sound(1), *bad, *sound(2)])

    keys, [fault] = read_all(str(shard))
    assert keys == ['00001', '00002']
    assert fault.reason == 'broken JSON'


def test_half_a_letter_in_a_caption_of_a_shard_is_no_text(tmp_path):
    bad = [('b.jpg', jpeg(1)), ('b.json', b'{"caption": "\\ud800"}')]
    _, [fault] = read_all(str(write_tar(tmp_path / '0.tar', bad)))

    assert fault.reason == 'caption not UTF-8'


@pytest.mark.parametrize('successes', ['1e999', '-5', '"9"', '9' * 5000, DEEP, 'NaN'])
def test_statistics_beside_a_shard_are_numbers_or_refused(tmp_path, successes):
    write_tar(tmp_path / '0.tar', sound(1))
    (tmp_path / '0_stats.json').write_text(f'{{"successes": {successes}}}')

    with pytest.raises(ValueError, match='0_stats.json has no number') as error:
        count_by_stats([str(tmp_path / '0.tar')])
    assert len(str(error.value)) < 600


def test_names_in_shards_are_printed_escaped(tmp_path):
    shard = write_tar(tmp_path / '0.tar', [('a\x1b[31m\nb.jpg', b'x'), ('a\x1b[31m\nb.txt', b'x')])
    [sample] = read_shard(str(shard))

    assert sample.name.isprintable()
    assert sample.name.endswith('0.tar/a\\x1b[31m\\nb')
