"""What training data of strangers cannot do: a list of promises."""

import json
import os
import shutil
import tracemalloc

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from hostile_pairs import DEEP, LOAD, read_all
from pgseg_mm import limits
from pgseg_mm.datasets import ImageTextDataset
from pgseg_mm.datasets.sampling.sample_key import READ_RECORD
from pgseg_mm.files.reading import FileAccessError
from shard_zoo import jpeg, write_tar


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
            f'pgseg_mm.datasets.pairs.{module}.print_log',
            lambda message, logger, level: messages.append(message),
        )
    return messages


def write(root, text, name='pairs.jsonl'):
    (root / name).write_text(text, encoding='utf-8')
    return name


def make(root, ann_file, **kwargs):
    return ImageTextDataset(ann_file, data_root=str(root), pipeline=LOAD, **kwargs)


SOUND = '{"image": "cat.png", "caption": "a cat"}'
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


@pytest.mark.parametrize('linked', ['root', 'rows'])
def test_absolute_paths_may_name_a_root_by_a_link_or_without(root, linked):
    link = root.parent / 'link'
    link.symlink_to(root)
    given, named = (link, root) if linked == 'root' else (root, link)
    write(root, json.dumps(dict(image=f'{named}/cat.png', caption='a cat')))

    assert make(given, 'pairs.jsonl')[0]['img_path'] == f'{named}/cat.png'
    write(root, json.dumps(dict(image=f'{named}/../cat.png', caption='a cat')))
    with pytest.raises(ValueError, match='1 outside data_root'):
        make(given, 'pairs.jsonl')


def test_long_fields_are_read_up_to_the_limit_of_a_row(root):
    text = 'a ' * 100_000
    assert make(root, write(root, f'image,caption\ncat.png,{text}\n', 'a.csv'))[0]['caption']


def test_a_file_that_is_too_long_is_counted_as_such(root, monkeypatch):
    dataset = make(root, write(root, SOUND), max_refetch=0)
    monkeypatch.setattr(limits, 'MAX_MEMBER_BYTES', 10)
    with pytest.raises(RuntimeError, match='too many bytes'):
        dataset[0]


def test_images_in_parquet_cannot_declare_far_more_bytes_than_the_file_has(root, monkeypatch):
    monkeypatch.setattr(limits, 'MAX_PARQUET_BATCH_BYTES', 2**20)
    table = pyarrow.table(dict(image=[b'x' + bytes(2**20)] * 3, caption=['a'] * 3))
    pyarrow.parquet.write_table(table, root / 'a.parquet', compression='zstd', use_dictionary=False)
    with pytest.raises(ValueError, match='declares 314.* bytes in column image of a row group'):
        make(root, 'a.parquet')
    monkeypatch.undo()
    monkeypatch.setattr(limits, 'MAX_MEMBER_BYTES', 2**20)
    with pytest.raises(ValueError, match='a.parquet#row 1 .* has 1048577 bytes, more than 1048576'):
        make(root, 'a.parquet', skip_broken=False)[0]


def test_captions_beside_images_are_not_read_through_links_out_of_the_folder(root):
    (root.parent / 'secret').write_text('secret')
    (root / 'cat.txt').symlink_to(root.parent / 'secret')

    with pytest.raises(ValueError, match='1 outside data_root.*allow_outside=True'):
        make(root, '', data_prefix=dict(img_path=''))
    allowed = make(root, '', data_prefix=dict(img_path=''), allow_outside=True)
    assert allowed[0]['caption'] == 'secret'


@pytest.mark.parametrize('where', ['outside', 'inside'])
def test_links_to_folders_of_pairs_are_counted_or_followed(root, where):
    real = (root.parent if where == 'outside' else root) / 'more'
    real.mkdir()
    shutil.copy(root / 'cat.png', real / 'dog.png')
    (real / 'dog.txt').write_text('a dog')
    (real / 'again').symlink_to(real)  # would be gone round and round
    (root / 'cat.txt').write_text('a cat')
    (root / 'link').symlink_to(real)
    plain = make(root, '', data_prefix=dict(img_path=''), max_refetch=100)
    allowed = make(root, '', data_prefix=dict(img_path=''), allow_outside=True)
    captions = [
        sorted(d.get_data_info(i)['caption'] for i in range(len(d))) for d in (plain, allowed)
    ]
    assert captions[1] == ['a cat', 'a dog']
    assert captions[0] == (['a cat'] if where == 'outside' else ['a cat', 'a dog'])
    outside = plain.left_out.get(plain.source, {}).get('outside data_root', 0)
    assert outside == (where == 'outside')


def test_a_folder_that_cannot_be_read_is_named(root, monkeypatch):
    (root / 'closed').mkdir()
    (root / 'cat.txt').write_text('a cat')
    scan = os.scandir

    def refusing(path):
        if str(path).endswith('closed'):
            raise PermissionError(13, 'Permission denied', str(path))
        return scan(path)

    monkeypatch.setattr(os, 'scandir', refusing)
    with pytest.raises(FileAccessError, match='closed cannot be read: Permission denied'):
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
