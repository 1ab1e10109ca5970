"""Pairs in parquet files."""

import pickle
import sys

import pyarrow
import pyarrow.parquet
import pytest

from pair_zoo import LOAD_SAFELY, make, write, write_parquet
from pgseg_mm.datasets.sampling.sample_key import READ_RECORD


def test_parquet_is_read_by_columns(root, monkeypatch):
    monkeypatch.setattr('pgseg_mm.datasets.pairs.pair_files.BATCH_ROWS', 2)
    read = []
    batches = pyarrow.parquet.ParquetFile.iter_batches
    monkeypatch.setattr(
        pyarrow.parquet.ParquetFile,
        'iter_batches',
        lambda self, **kwargs: read.append(kwargs['columns']) or batches(self, **kwargs),
    )
    name = write_parquet(
        root,
        title=['a cat', None, 'a dog', '  '],
        width=[8, 8, 8, 8],
        filepath=['cat.png', 'cat.png', 'dog.png', 'dog.png'],
    )
    dataset = make(root, name, image_key='filepath', caption_key='title')

    assert read == [['filepath', 'title']]
    assert [dataset[n]['caption'] for n in range(2)] == ['a cat', 'a dog']
    assert dataset[1]['img_path'] == f'{root}/images/dog.png'
    assert dataset[1]['ann_row'] == 'row 3'
    assert dataset.left_out == {f'{root}/pairs.parquet': {'empty caption': 2}}


def test_a_wrong_parquet_file_is_refused(root):
    with pytest.raises(ValueError, match=r"no column 'image', only .*'path'.*set image_key"):
        make(root, write_parquet(root, path=['cat.png'], caption=['a cat']))
    with pytest.raises(ValueError, match="row 1: column 'caption' is 3 of type int"):
        make(root, write_parquet(root, image=['cat.png'], caption=[3]))
    with pytest.raises(ValueError, match='cannot be read as Parquet'):
        make(root, write(root, 'a.parquet', 'no parquet'))


def test_parquet_without_pyarrow_says_what_to_install(root, monkeypatch):
    name = write_parquet(root, image=['cat.png'], caption=['a cat'])
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(ImportError, match=r'pgseg-mm\[data\]'):
        make(root, name)


PICTURE = 'cat.png'


def struct_rows(root):
    image = (root / 'images' / PICTURE).read_bytes()
    return [
        dict(bytes=image, path='inside.png'),
        dict(bytes=None, path=PICTURE),
        dict(bytes=image, path=None),
    ]


@pytest.mark.parametrize('statistics', [True, False])
@pytest.mark.parametrize('kind', ['struct', 'bytes', 'large bytes'])
def test_images_that_lie_in_parquet_are_read(root, kind, statistics):
    rows = struct_rows(root)
    if kind != 'struct':
        binary = pyarrow.binary() if kind == 'bytes' else pyarrow.large_binary()
        rows = pyarrow.array([row['bytes'] or rows[0]['bytes'] for row in rows], binary)
    table = pyarrow.table(dict(image=rows, caption=['a', 'b', 'c']))
    pyarrow.parquet.write_table(
        table, root / 'a.parquet', row_group_size=2, write_statistics=statistics
    )
    dataset = pickle.loads(pickle.dumps(make(root, 'a.parquet', pipeline=LOAD_SAFELY)))

    items = [dataset[n] for n in (2, 0, 1)]
    assert [item['caption'] for item in items] == ['c', 'a', 'b']
    assert all(item['img'].shape == (6, 8, 3) for item in items)
    assert not {'img_bytes', 'img_row'} & items[0].keys()
    if kind == 'struct':
        assert items[1]['img_path'] == f'{root}/a.parquet#inside.png'
        assert items[2]['img_path'] == f'{root}/images/cat.png'


def test_an_image_that_is_broken_in_parquet_is_named(root):
    name = write_parquet(root, image=[b'x', None], caption=['a', 'b'])
    dataset = make(root, name, skip_broken=False)
    assert len(dataset) == 1 and dataset.left_out[dataset.source] == {'missing image': 1}
    name = write_parquet(root, image=[b'x'], caption=['a'])
    with pytest.raises(ValueError, match=r'a?.parquet#row 1 \(row 1 of .* cannot be read'):
        make(root, name, pipeline=LOAD_SAFELY, skip_broken=False)[0]


def test_a_damaged_row_group_is_counted_and_its_rows_replaced(root):
    content = (root / 'images' / PICTURE).read_bytes()
    table = pyarrow.table(dict(image=[content] * 40, caption=['a'] * 40))
    path = root / 'a.parquet'
    pyarrow.parquet.write_table(table, path, row_group_size=10, compression='zstd')
    chunk = pyarrow.parquet.read_metadata(path).row_group(2).column(0)
    start, damaged = chunk.dictionary_page_offset or chunk.data_page_offset, path.read_bytes()
    path.write_bytes(damaged[:start] + b'\xff' * 40 + damaged[start + 40 :])
    dataset = make(root, 'a.parquet', pipeline=LOAD_SAFELY)
    found = dataset[25]
    assert found['caption'] == 'a'
    assert found[READ_RECORD].skipped[dataset.source]['broken image'] >= 1
    with pytest.raises(ValueError, match='row 26 .* is in a row group that cannot be read: '):
        make(root, 'a.parquet', pipeline=LOAD_SAFELY, skip_broken=False)[25]


def test_captions_of_numbers_are_empty_or_refused_in_parquet(root):
    with pytest.raises(ValueError, match='left out: 2 empty caption'):
        make(root, write_parquet(root, image=['a', 'b'], caption=[float('nan'), None]))
