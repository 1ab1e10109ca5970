import json
import logging
import os
import pickle
import shutil
import tracemalloc

import pytest
from mmengine.dataset import BaseDataset, default_collate
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample
from PIL import Image
from torch.utils.data import DataLoader

from pair_zoo import FILES, LOAD, LOAD_SAFELY, make, write, write_parquet
from pgseg_mm.datasets.sampling.sample_key import READ_RECORD, ReadRecord
from pgseg_mm.models.data_preprocessor import PGSegDataPreProcessor


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
        ('a.csv', 'image,caption\n,a cat\n', r'no usable row \(left out: 1 missing image\)'),
        ('a.csv', 'image,caption\na.png,\n', r'no usable row \(left out: 1 empty caption\)'),
        ('a.csv', 'image,caption\n,a cat\na.png,\n', 'the first: .*line 2'),
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
