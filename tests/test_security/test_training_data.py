"""What training data of strangers cannot do: a list of promises."""

import gzip
import io
import json
import os
import tarfile
import time
import tracemalloc

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from pgseg_mm import limits
from pgseg_mm.datasets import ImageTextDataset, WebImageTextDataset
from pgseg_mm.datasets.pairs.shards import count_by_stats, read_shard
from pgseg_mm.datasets.pairs.skips import UnusableSample
from pgseg_mm.datasets.sampling.sample_key import READ_RECORD, SampleKey
from shard_zoo import jpeg, sound, write_tar

LOAD = [dict(type='DecodeImage')]


@pytest.fixture
def root(tmp_path):
    """A data root with a picture, and another picture beside it."""
    (tmp_path / 'root').mkdir()
    for folder in (tmp_path / 'root', tmp_path):
        Image.fromarray(np.full((6, 8, 3), 7, np.uint8)).save(folder / 'cat.png')
    return tmp_path / 'root'


@pytest.fixture
def logged(monkeypatch):
    """What the log says, as one text."""
    messages = []
    for module in ('image_text', 'skips'):
        monkeypatch.setattr(
            f'pgseg_mm.datasets.{module}.print_log',
            lambda message, logger, level: messages.append(message),
        )
    return messages


def write(root, text, name='pairs.jsonl'):
    (root / name).write_text(text, encoding='utf-8')
    return name


def make(root, ann_file, **kwargs):
    return ImageTextDataset(ann_file, data_root=str(root), pipeline=LOAD, **kwargs)


SOUND = '{"image": "cat.png", "caption": "a cat"}'
DEEP = '[' * 100_000 + ']' * 100_000
BAD_ROWS = {
    'address': ('{"image": "http://127.0.0.1:1/a.png", "caption": "x"}', 'no file path'),
    'unknown scheme': ('{"image": "nothing://a.png", "caption": "x"}', 'no file path'),
    'file scheme': ('{"image": "file:///etc/passwd", "caption": "x"}', 'no file path'),
    'zero byte': ('{"image": "cat.png\\u0000", "caption": "x"}', 'no file path'),
    'half a letter': ('{"image": "\\ud800.png", "caption": "x"}', 'no file path'),
    'long': ('{"image": "%s.png", "caption": "x"}' % ('a' * 5000), 'no file path'),
    'absolute': ('{"image": "/etc/hostname", "caption": "x"}', 'outside data_root'),
    'upwards': ('{"image": "../cat.png", "caption": "x"}', 'outside data_root'),
    'down and up': ('{"image": "a/../../cat.png", "caption": "x"}', 'outside data_root'),
    'nested': ('{"image": "cat.png", "caption": "x", "more": ' + DEEP + '}', 'broken JSON'),
    'nested objects': ('{"a":' * 100_000 + '1' + '}' * 100_000, 'broken JSON'),
    'digits': ('{"image": "cat.png", "caption": "x", "n": %s}' % ('9' * 5000), 'broken JSON'),
    'long row': ('{"image": "cat.png", "caption": "%s"}' % ('x' * 2**22), 'broken JSON'),
    'half a letter said': ('{"image": "cat.png", "caption": "\\ud800"}', 'caption not UTF-8'),
}


@pytest.mark.parametrize('name', ['pairs.jsonl', 'pairs.json'])
@pytest.mark.parametrize('kind', BAD_ROWS)
def test_a_bad_row_is_left_out_counted_and_named(root, logged, name, kind):
    row, reason = BAD_ROWS[kind]
    rows = [SOUND, row, SOUND.replace('a cat', 'it has [brackets], "no" \\\\ end')]
    text = '\n'.join(rows) if name.endswith('l') else f'[{", ".join(rows)}]'
    dataset = make(root, write(root, text.replace('"no"', '\\"no\\"'), name))

    assert [dataset[n]['caption'] for n in range(len(dataset))] == [
        'a cat',
        'it has [brackets], "no" \\ end',
    ]
    assert dataset.left_out == {f'{root}/{name}': {reason: 1}}
    named, counted = logged
    assert 'line 2' in named or 'entry 2' in named
    assert f'1 {reason}' in counted
    assert max(map(len, logged)) < 600


@pytest.mark.parametrize('kind', ['address', 'absolute', 'nested'])
def test_a_bad_row_is_an_error_where_nothing_is_to_be_skipped(root, kind):
    row, _ = BAD_ROWS[kind]
    with pytest.raises(ValueError, match='line 2') as error:
        make(root, write(root, f'{SOUND}\n{row}\n'), skip_broken=False)
    assert len(str(error.value)) < 600


def test_nothing_is_fetched_by_a_path_in_a_csv(root, monkeypatch):
    monkeypatch.setattr('socket.socket.connect', lambda *_: pytest.fail('fetched'))
    name = write(root, 'image,caption\nhttp://127.0.0.1:1/a.png,x\ncat.png,y\n', 'a.csv')

    assert len(make(root, name)) == 1


def test_paths_lead_out_of_the_root_if_that_is_asked_for_or_there_is_none(root):
    outside = f'{root.parent}/cat.png'
    name = write(root, json.dumps(dict(image=outside, caption='x')))

    assert make(root, name, allow_outside=True)[0]['img_path'] == outside
    assert ImageTextDataset(str(root / name), pipeline=LOAD)[0]['img_path'] == outside
    with pytest.raises(ValueError, match='1 outside data_root.*allow_outside=True'):
        make(root, name)
    prefix = dict(img_path=str(root.parent))
    assert make(root, name, data_prefix=prefix)[0]['img_path'] == outside


@pytest.mark.parametrize('what', ['file', 'folder'])
def test_links_do_not_lead_out_of_the_root(root, what):
    link = root / 'link'
    link.symlink_to(root.parent / 'cat.png' if what == 'file' else root.parent)
    image = 'link' if what == 'file' else 'link/cat.png'
    rows = [json.dumps(dict(image=image, caption='x'))]
    dataset = make(root, write(root, '\n'.join([SOUND, *rows])), max_refetch=100)

    assert dataset[1][READ_RECORD].skipped[dataset.source]['outside data_root'] >= 1
    assert dataset[1]['img_path'] == f'{root}/cat.png'
    assert make(root, 'pairs.jsonl', allow_outside=True)[1]['img_path'] == f'{root}/{image}'


def test_a_root_that_is_a_link_is_a_root(root):
    (root.parent / 'link').symlink_to(root)
    write(root, SOUND)

    assert make(root.parent / 'link', 'pairs.jsonl')[0]['caption'] == 'a cat'


def test_captions_beside_images_are_not_read_through_links_out_of_the_folder(root):
    (root.parent / 'secret').write_text('secret')
    (root / 'cat.txt').symlink_to(root.parent / 'secret')

    with pytest.raises(ValueError, match='1 outside data_root'):
        make(root, '', data_prefix=dict(img_path=''))


@pytest.mark.parametrize('kind', ['pipe', 'device', 'folder'])
def test_what_is_no_regular_file_is_neither_read_nor_waited_for(root, kind):
    path = root / 'odd.png'
    if kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'folder':
        path.mkdir()
    image = '/dev/zero' if kind == 'device' else str(path)
    rows = [SOUND, json.dumps(dict(image=image, caption='x'))]
    dataset = make(root, write(root, '\n'.join(rows)), max_refetch=100, allow_outside=True)

    assert dataset[1][READ_RECORD].skipped[dataset.source]['broken image'] >= 1


def test_a_list_of_any_length_is_held_row_by_row(root):
    rows = ['{"image": "cat.png", "caption": "a cat", "more": [%s0]}' % ('{},' * 1000)] * 1000
    name = write(root, f'[{",".join(rows)}]', 'a.json')
    tracemalloc.start()
    dataset = make(root, name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(dataset) == 1000
    assert peak < 4e6  # all at once, 70 MB


def test_parquet_cannot_declare_more_rows_than_it_has_bytes(root):
    rows = 2 * limits.MAX_PARQUET_ROWS
    column = pyarrow.DictionaryArray.from_arrays(np.zeros(rows, np.int8), ['cat.png'])
    table = pyarrow.table(dict(image=column, caption=column))
    pyarrow.parquet.write_table(table, root / 'a.parquet', compression='zstd')

    with pytest.raises(ValueError, match=f'declares {rows} rows in .* bytes'):
        make(root, 'a.parquet')


def test_a_text_that_many_rows_of_parquet_share_is_held_once(root):
    texts = ['x' * 10**6, 'a cat']
    column = pyarrow.DictionaryArray.from_arrays(np.array([0] * 200 + [1], np.int8), texts)
    table = pyarrow.table(dict(image=['cat.png'] * 201, caption=column))
    pyarrow.parquet.write_table(table, root / 'a.parquet')
    tracemalloc.start()
    list(make_rows(root / 'a.parquet'))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1e7


def make_rows(path):
    from pgseg_mm.datasets.pairs.pair_files import read_rows

    return read_rows(path, 'image', 'caption')


# Shards


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


def read_all(shard):
    """Keys of the samples, faults of those that are no pairs, and that of the shard."""
    keys, faults = [], []
    try:
        for sample in read_shard(shard):
            try:
                sample.pair('caption')
                keys.append(sample.key)
            except UnusableSample as fault:
                faults.append(fault)
    except UnusableSample as fault:
        faults.append(fault)
    return keys, faults


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


def test_many_bad_rows_are_one_name_and_one_number_in_the_log(root, logged):
    rows = [BAD_ROWS['address'][0]] * 1000
    dataset = make(root, write(root, '\n'.join([SOUND, *rows])))

    assert dataset.left_out == {f'{root}/pairs.jsonl': {'no file path': 1000}}
    assert len(logged) == 2


def test_messages_stay_short_whatever_the_names(tmp_path):
    """Found by the fuzzer: a long key, and JSON whose error names much."""
    folder = tmp_path / ('d' * 200)
    folder.mkdir()
    key = 'k' * 200
    bad = [(f'{key}.jpg', jpeg(1)), (f'{key}.json', ('{"caption": ' + '9' * 5000 + '}').encode())]
    _, [fault] = read_all(str(write_tar(folder / '0.tar', bad)))

    assert len(str(fault)) < 600
    name = write(folder, json.dumps(dict(image='p/' * 900 + 'a.png', caption='x')))
    dataset = ImageTextDataset(name, data_root=str(folder), pipeline=LOAD, skip_broken=False)
    with pytest.raises(FileNotFoundError) as error:
        dataset[0]
    assert len(str(error.value)) < 600
