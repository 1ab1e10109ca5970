import json
import logging
import os
import pickle
import shutil
import sys
import tracemalloc
import urllib.error

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from mmengine.dataset import BaseDataset, default_collate
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample
from PIL import Image
from torch.utils.data import DataLoader

from pgseg_mm.datasets import ImageTextDataset
from pgseg_mm.datasets.sampling.random_state import seeded
from pgseg_mm.datasets.sampling.sample_key import READ_RECORD, ReadRecord
from pgseg_mm.files import reading
from pgseg_mm.files.reading import FileAccessError
from pgseg_mm.models.data_preprocessor import PGSegDataPreProcessor
from shard_zoo import bomb

LOAD = [dict(type='mmcv.LoadImageFromFile')]


@pytest.fixture
def root(tmp_path):
    """A data root with two images."""
    (tmp_path / 'images').mkdir()
    for name in ('cat.png', 'dog.png'):
        Image.fromarray(np.full((6, 8, 3), 7, np.uint8)).save(tmp_path / 'images' / name)
    return tmp_path


def write(root, name, text):
    (root / name).write_text(text, encoding='utf-8')
    return name


def make(root, ann_file, **kwargs):
    prefix = dict(img_path='images')
    return ImageTextDataset(ann_file, data_root=str(root), data_prefix=prefix, **kwargs)


ROWS = [
    dict(image='cat.png', caption='a cat'),
    dict(image='dog.png', caption='dogs, "two" of them'),
]
FILES = {
    'pairs.json': json.dumps(ROWS),
    'pairs.jsonl': '\n'.join(json.dumps(row) for row in ROWS) + '\n\n',
    'pairs.csv': 'image,caption\ncat.png,a cat\ndog.png,"dogs, ""two"" of them"\n',
    'pairs.tsv': 'image\tcaption\ncat.png\ta cat\ndog.png\tdogs, "two" of them\n',
}


@pytest.mark.parametrize('name', FILES)
def test_pairs_are_read_from_every_format(root, name):
    dataset = make(root, write(root, name, FILES[name]))

    assert len(dataset) == 2
    first, second = dataset[0], dataset[1]
    assert first['img_path'] == f'{root}/images/cat.png'
    assert first['caption'] == 'a cat'
    assert second['caption'] == 'dogs, "two" of them'


def test_built_from_a_config_it_loads_images_and_needs_no_classes(root):
    init_default_scope('mmseg')
    dataset = DATASETS.build(
        dict(
            type='ImageTextDataset',
            ann_file=write(root, 'pairs.csv', 'filepath,title\ncat.png,a cat\n'),
            image_key='filepath',
            caption_key='title',
            data_root=str(root),
            data_prefix=dict(img_path='images'),
            pipeline=[dict(type='LoadImageFromFile')],
        )
    )

    assert isinstance(dataset, BaseDataset)
    assert dataset[0]['img'].shape == (6, 8, 3)
    assert 'classes' not in dataset.metainfo


def test_it_survives_pickling_for_worker_processes(root):
    dataset = make(root, write(root, 'pairs.json', FILES['pairs.json']), pipeline=LOAD)

    assert pickle.loads(pickle.dumps(dataset))[1]['caption'] == 'dogs, "two" of them'


def test_an_absolute_image_path_is_kept(root):
    path = str(root / 'images' / 'cat.png')
    name = write(root, 'pairs.json', json.dumps([dict(image=path, caption='a cat')]))

    assert make(root, name)[0]['img_path'] == path


def test_empty_captions_are_left_out_and_counted_once(root, monkeypatch):
    warnings = []
    monkeypatch.setattr(
        'pgseg_mm.datasets.pairs.image_text.print_log',
        lambda message, logger, level: warnings.append((message, level)),
    )
    name = write(root, 'pairs.csv', 'image,caption\ncat.png,\ndog.png,a dog\ncat.png,  \n')
    dataset = make(root, name)

    assert len(dataset) == 1
    assert dataset[0]['ann_row'] == 'line 3'
    assert dataset.left_out == {f'{root}/pairs.csv': {'empty caption': 2}}
    [(message, level)] = warnings
    assert 'left out 2 of 3 rows: 2 empty caption' in message
    assert level == logging.WARNING


def test_a_missing_annotation_file_is_named(root):
    with pytest.raises(FileNotFoundError, match='pairs.json does not exist; check ann_file'):
        make(root, 'pairs.json')


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('a.txt', 'cat.png a cat', r"suffix '.txt'; expected one of .*'.csv'"),
        ('a.csv', 'path,caption\ncat.png,a cat\n', r"no column 'image', only .*set image_key"),
        ('a.json', '[{"image": "a.png", "text": "x"}]', r"no column 'caption', .*set caption_key"),
        ('a.json', '[{"image": "a.png", "caption": 3}]', r"entry 1: column 'caption' is 3 of type"),
        ('a.jsonl', '{"image": "a", "caption": "x"}\n{"image"', 'line 2: invalid JSON'),
        ('a.jsonl', '["a.png", "a cat"]\n', 'line 1: found a JSON list; expected an object'),
        ('a.json', '[\n{"image": "a.png",\n', 'line 3: invalid JSON'),
        ('a.json', '{"image": "a.png"}', 'holds a JSON dict; expected a list'),
        ('a.csv', 'image,caption\na.png,one, two\n', 'line 2: 3 fields, but the header has 2'),
        ('a.csv', 'image,caption\na.png,"never closed\n', 'line 2: .*check the quoting'),
        ('a.csv', 'image,caption\n,a cat\n', 'line 2: the image path is empty'),
        ('a.csv', 'image,caption\na.png,\n', r'no usable row \(left out: 1 empty caption\)'),
        ('a.json', '[]', 'no usable row'),
        ('a.csv', '', 'no usable row'),
    ],
)
def test_a_wrong_annotation_file_is_refused(root, name, text, message):
    with pytest.raises(ValueError, match=message):
        make(root, write(root, name, text))


def test_a_file_in_another_encoding_is_refused(root):
    (root / 'a.csv').write_bytes('image,caption\ncat.png,café\n'.encode('latin-1'))

    with pytest.raises(ValueError, match='not UTF-8'):
        make(root, 'a.csv')


@pytest.mark.parametrize('content', [b'this is no image', b''])
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_an_image_that_is_no_image_is_named_with_its_row(root, content, backend):
    (root / 'images' / 'cat.png').write_bytes(content)
    name = write(root, 'pairs.csv', FILES['pairs.csv'])
    load = dict(LOAD[0], imdecode_backend=backend)
    dataset = make(root, name, pipeline=[load], skip_broken=False)

    with pytest.raises(ValueError, match=r'cat.png \(line 2 of .*cannot be read') as error:
        dataset[0]
    assert error.value.__cause__ is not None


def test_an_mmcv_that_does_not_check_what_it_decoded_makes_no_difference(root, monkeypatch):
    def transform(self, results):
        decoded = None
        return dict(results, img=decoded, img_shape=decoded.shape)

    monkeypatch.setattr('mmcv.transforms.LoadImageFromFile.transform', transform)
    name = write(root, 'pairs.csv', FILES['pairs.csv'])
    dataset = make(root, name, pipeline=LOAD, skip_broken=False)

    with pytest.raises(ValueError, match=r'cat.png \(line 2 of .*cannot be read'):
        dataset[0]


def test_a_missing_image_is_named_with_its_row(root):
    name = write(root, 'pairs.json', '[{"image": "bird.png", "caption": "a bird"}]')
    dataset = make(root, name, pipeline=LOAD, skip_broken=False)

    with pytest.raises(FileNotFoundError, match=r'bird.png \(entry 1 of .*does not exist'):
        dataset[0]


def test_an_error_of_another_transform_stays_what_it_is(root):
    def broken(results):
        raise OSError('out of paper')

    name = write(root, 'pairs.json', FILES['pairs.json'])
    dataset = make(root, name, pipeline=[*LOAD, broken])

    with pytest.raises(OSError, match='^out of paper$'):
        dataset[0]


def write_parquet(root, name='pairs.parquet', **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), root / name)
    return name


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


@pytest.mark.parametrize('ann_file', ['', 'images'])
def test_a_folder_is_read_with_captions_beside_the_images(root, ann_file):
    images = root / 'images'
    (images / 'deeper').mkdir()
    (images / 'cat.png').rename(images / 'deeper' / 'cat.png')
    (images / 'deeper' / 'cat.txt').write_text('a cat\n')
    (images / 'dog.txt').write_bytes('chien brûlé'.encode('latin-1'))
    (images / 'bird.txt').write_text('a bird without an image')
    Image.new('RGB', (4, 4)).save(images / 'fish.JPG', 'JPEG')
    Image.new('RGB', (4, 4)).save(images / 'silent.webp')
    (images / 'silent.txt').write_text(' ')
    (images / 'notes.md').write_text('neither')
    dataset = make(root, ann_file, pipeline=LOAD)

    assert len(dataset) == 1
    assert dataset[0]['caption'] == 'a cat'
    assert dataset[0]['img'].shape == (6, 8, 3)
    assert dataset.left_out[dataset.source] == {
        'missing image': 1,
        'caption not UTF-8': 1,
        'missing caption': 1,
        'empty caption': 1,
    }


def test_images_that_cannot_be_used_are_replaced_and_counted(root):
    images = root / 'images'
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(images / 'half.jpg')
    (images / 'half.jpg').write_bytes((images / 'half.jpg').read_bytes()[:900])
    (images / 'bomb.png').write_bytes(bomb())
    Image.new('RGB', (3, 3)).save(images / 'dot.png')
    names = ['cat.png', 'half.jpg', 'bomb.png', 'dot.png', 'gone.png']
    name = write(root, 'a.json', json.dumps([dict(image=n, caption=n) for n in names]))
    decode = [dict(type='DecodeImage')]
    dataset = make(root, name, pipeline=decode, min_pixels=10, source='zoo', max_refetch=200)

    reasons = ['broken image', 'too large', 'too small', 'missing image']
    for index, reason in enumerate(reasons, start=1):
        with seeded(index):
            sample = dataset[index]
        record = sample[READ_RECORD]
        assert sample['img_path'].endswith('cat.png')
        assert 'img_bytes' not in sample
        assert record.source == 'zoo'
        assert record.key == f'{root}/images/cat.png (entry 1)'
        assert record.skipped['zoo'][reason] >= 1
        with seeded(index):
            assert dataset[index][READ_RECORD] == record
    assert dataset[0][READ_RECORD].skipped == {}


def test_where_no_image_can_be_used_it_says_why(root):
    name = write(root, 'a.json', '[{"image": "gone.png", "caption": "x"}]')
    dataset = make(root, name, pipeline=LOAD, max_refetch=4)

    with pytest.raises(RuntimeError, match=r'No usable pair in 5 .*5 missing image.*gone.png'):
        dataset[0]


def test_what_a_transform_drops_is_counted(root):
    name = write(root, 'pairs.json', FILES['pairs.json'])
    no_cats = [*LOAD, lambda results: None if 'cat' in results['caption'] else results]
    record = make(root, name, pipeline=no_cats, source='zoo')[0][READ_RECORD]

    assert set(record.skipped['zoo']) == {'dropped by a transform'}


@pytest.mark.parametrize('workers', [0, 2])
def test_the_record_travels_through_loader_and_preprocessor(root, workers):
    (root / 'images' / 'cat.png').write_bytes(b'')
    pipeline = [
        dict(type='DecodeImage'),
        dict(type='TokenizeCaption', context_length=8),
        dict(type='PackImageTextInputs', meta_keys=()),
    ]
    init_default_scope('mmseg')
    name = write(root, 'pairs.json', FILES['pairs.json'])
    dataset = make(root, name, pipeline=pipeline, source='zoo')
    loader = DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=default_collate)
    [batch] = loader
    preprocessor = PGSegDataPreProcessor(mean=[0, 0, 0], std=[1, 1, 1])
    first, second = preprocessor(batch, training=True)['data_samples']

    assert type(first) is SegDataSample
    assert type(first.read_record) is ReadRecord
    assert set(first.read_record.skipped['zoo']) == {'broken image'}
    assert second.read_record.skipped == {}
    assert second.read_record.key == f'{root}/images/dog.png (entry 2)'


@pytest.mark.parametrize('serialize', [True, False])
def test_rows_and_parts_of_them_can_be_taken_with_and_without_serialisation(root, serialize):
    rows = [dict(image='cat.png', caption=f'cat {number}') for number in range(9)]
    name = write(root, 'a.json', json.dumps(rows))

    def captions(**kwargs):
        dataset = make(root, name, serialize_data=serialize, **kwargs)
        return [dataset[index]['caption'] for index in range(len(dataset))]

    assert captions() == [f'cat {number}' for number in range(9)]
    assert captions(indices=3) == ['cat 0', 'cat 1', 'cat 2']
    assert captions(indices=-2) == ['cat 7', 'cat 8']
    assert captions(indices=[5, 1]) == ['cat 5', 'cat 1']
    subset = make(root, name, serialize_data=serialize).get_subset([8, 0])
    assert [subset[0]['caption'], subset[1]['caption']] == ['cat 8', 'cat 0']


def test_many_rows_are_never_held_as_dictionaries(root):
    """A row of this size takes 0.9 kB as a dictionary of strings."""
    number = 20000
    images = [f'{index:09d}.jpg' for index in range(number)]
    captions = [f'a photo of thing number {index}' for index in range(number)]
    name = write_parquet(root, image=images, caption=captions)
    make(root, name)  # imports and pools of pyarrow
    tracemalloc.start()
    dataset = make(root, name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert dataset.get_data_info(number - 1)['caption'] == captions[-1]
    # 5 MB as pickled; the largest batch of rows, all of them here, comes on top.
    assert peak < 400 * number


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


LOAD_SAFELY = [dict(type='DecodeImage')]


def test_an_image_that_is_broken_in_parquet_is_named(root):
    name = write_parquet(root, image=[b'x', None], caption=['a', 'b'])
    with pytest.raises(ValueError, match='row 2: the image path is empty'):
        make(root, name)
    name = write_parquet(root, image=[b'x'], caption=['a'])
    with pytest.raises(ValueError, match=r'a?.parquet#row 1 \(row 1 of .* cannot be read'):
        make(root, name, pipeline=LOAD_SAFELY, skip_broken=False)[0]


@pytest.mark.parametrize('name', ['pairs.parquet', 'pairs.json'])
def test_a_list_of_captions_makes_a_pair_each(root, name):
    captions = [['a cat', 'one cat', ''], [], ['a dog']]
    images = ['cat.png', 'cat.png', 'dog.png']
    if name.endswith('json'):
        rows = [dict(image=i, caption=c) for i, c in zip(images, captions, strict=True)]
        write(root, name, json.dumps(rows))
    else:
        write_parquet(root, name, image=images, caption=captions)
    dataset = make(root, name)

    assert [dataset[n]['caption'] for n in range(len(dataset))] == ['a cat', 'one cat', 'a dog']
    assert dataset.left_out == {f'{root}/{name}': {'empty caption': 2}}


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('a.json', '[{"image": "cat.png", "caption": NaN}, {"image": "dog.png", "caption": "x"}]'),
        ('a.jsonl', '{"image": "cat.png", "caption": NaN}\n{"image": "dog.png", "caption": "x"}'),
        ('a.csv', 'image,caption\ncat.png,NaN\ndog.png,x\n'),
        ('a.csv', 'image,caption\ncat.png,nan\ndog.png,x\n'),
        ('a.tsv', 'image\tcaption\ncat.png\t<NA>\ndog.png\tx\n'),
    ],
)
def test_what_pandas_writes_for_no_value_is_an_empty_caption(root, name, text):
    dataset = make(root, write(root, name, text))

    assert [dataset[n]['caption'] for n in range(len(dataset))] == ['x']
    assert dataset.left_out == {f'{root}/{name}': {'empty caption': 1}}


def test_captions_of_numbers_are_empty_or_refused_in_parquet(root):
    with pytest.raises(ValueError, match='left out: 2 empty caption'):
        make(root, write_parquet(root, image=['a', 'b'], caption=[float('nan'), None]))


@pytest.mark.parametrize(
    ('image', 'caption'),
    [
        ('x' * 10**6, {'a' * 10**6: 1}),
        ({'bytes': 'x' * 10**6}, 'a'),
        (['x' * 10**6] * 3, 'a'),
        (10**4000, 'a'),
        ('a.png', [['x' * 10**6]]),
        ('a.png', 10**4000),
    ],
)
def test_a_value_is_told_by_its_kind_and_not_printed(root, image, caption):
    name = write(root, 'a.jsonl', json.dumps(dict(image=image, caption=caption)))
    with pytest.raises(ValueError) as error:
        make(root, name)
    assert len(str(error.value)) < 600

    bad = dict(image='cat.png', caption='x', more=1) | {'k' * 10**6: 1}
    with pytest.raises(ValueError, match='no column') as error:
        make(root, write(root, 'a.jsonl', json.dumps(bad)), image_key='nothing')
    assert len(str(error.value)) < 600


SYSTEM_ERRORS = [
    (PermissionError(13, 'Permission denied'), 1, r'\[Errno 13\] Permission denied; tried 1 times'),
    (OSError(24, 'Too many open files'), 4, r'\[Errno 24\] Too many open files; tried 4 times'),
    (ConnectionRefusedError(111, 'Connection refused'), 4, r'\[Errno 111\] Connection refused'),
    (OSError(28, 'No space left on device'), 1, r'\[Errno 28\] No space left'),
    (OSError(5, 'Input/output error'), 4, r'\[Errno 5\] Input/output error'),
]


@pytest.mark.parametrize('skip_broken', [True, False])
@pytest.mark.parametrize(('fault', 'tries', 'message'), SYSTEM_ERRORS)
def test_the_systems_errors_stop_the_run_and_say_so(
    root, monkeypatch, fault, tries, message, skip_broken
):
    calls, pauses = [], []

    def failing(path, max_bytes):
        calls.append(path)
        raise fault

    name = write(root, 'pairs.json', FILES['pairs.json'])
    dataset = make(root, name, pipeline=LOAD_SAFELY, skip_broken=skip_broken)
    monkeypatch.setattr('pgseg_mm.files.reading.read_regular', failing)
    monkeypatch.setattr('pgseg_mm.files.reading.time.sleep', pauses.append)

    with pytest.raises(FileAccessError, match=message) as error:
        dataset[0]
    assert 'cat.png (entry 1' in str(error.value) and 'remove the row' not in str(error.value)
    assert len(calls) == tries == len(pauses) + 1
    assert dataset._skipped.counts() == {}


def test_what_passes_is_tried_again(root, monkeypatch):
    read, failures = reading.read_regular, [OSError(24, 'Too many open files')] * 2

    def sometimes(path, max_bytes):
        if failures:
            raise failures.pop()
        return read(path, max_bytes)

    name = write(root, 'pairs.json', FILES['pairs.json'])
    dataset = make(root, name, pipeline=LOAD_SAFELY)
    monkeypatch.setattr(reading, 'read_regular', sometimes)
    monkeypatch.setattr('pgseg_mm.files.reading.time.sleep', lambda seconds: None)

    assert dataset[0][READ_RECORD].skipped == {}


def test_a_refused_connection_of_a_backend_is_no_broken_image(root, monkeypatch):
    refused = urllib.error.URLError(ConnectionRefusedError(111, 'Connection refused'))

    def fetch(*_):
        raise refused

    monkeypatch.setattr('pgseg_mm.files.reading.fileio.get', fetch)
    monkeypatch.setattr('pgseg_mm.files.reading.time.sleep', lambda seconds: None)
    name = write(root, 'pairs.json', FILES['pairs.json'])
    stored = [dict(type='DecodeImage', backend_args=dict(backend='local'))]
    dataset = make(root, name, pipeline=stored)

    with pytest.raises(FileAccessError, match='Connection refused'):
        dataset[0]
    refused = urllib.error.HTTPError('http://store', 404, 'Not found', None, None)
    with pytest.raises(RuntimeError, match='missing image'):
        dataset.max_refetch = 2
        dataset[0]


def test_names_that_are_no_utf8_or_very_long_are_shown_escaped_and_read(root):
    names = [os.fsdecode(b'caf\xe9.png'), 'a\nb\x1b[31m.png', 'x' * 250 + '.png']
    for name in names:
        (root / 'images' / 'cat.png').rename(root / 'images' / name)
        (root / 'images' / name).with_suffix('.txt').write_text('a cat')
        shutil.copy(root / 'images' / name, root / 'images' / 'cat.png')
    (root / 'images' / 'cat.png').unlink()
    dataset = make(root, 'images', pipeline=LOAD_SAFELY)

    keys = sorted(dataset[n][READ_RECORD].key for n in range(3))
    assert all(key.isprintable() and len(key) < 600 for key in keys)
    assert any('caf\\xe9.png' in key for key in keys)
    assert any('a\\nb\\x1b[31m.png' in key for key in keys)
