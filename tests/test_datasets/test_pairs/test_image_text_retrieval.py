"""Images with all their captions."""

import json

import numpy as np
import pytest
from mmseg.registry import DATASETS
from PIL import Image

from pgseg_mm.errors import BrokenSampleError, MissingSampleError

ROWS = [
    {'image': 'cat.png', 'caption': ['a cat', 'a pet']},
    {'image': 'dog.png', 'caption': 'a dog'},
    {'image': 'cat.png', 'caption': 'a cat again'},
    {'image': 'dog.png', 'caption': ''},
]


@pytest.fixture
def root(tmp_path):
    for name in ('cat', 'dog'):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f'{name}.png')
    (tmp_path / 'pairs.jsonl').write_text(''.join(f'{json.dumps(row)}\n' for row in ROWS))
    return tmp_path


def build(root, **kwargs):
    cfg = dict(type='ImageTextRetrievalDataset', data_root=str(root), ann_file='pairs.jsonl')
    return DATASETS.build({**cfg, 'pipeline': [], **kwargs})


def test_an_item_is_an_image_with_all_its_captions(root):
    dataset = build(root)
    assert [(item['img_path'], item['text']) for item in map(dataset.__getitem__, range(2))] == [
        (f'{root}/cat.png', ['a cat', 'a pet', 'a cat again']),
        (f'{root}/dog.png', ['a dog']),
    ]
    assert len(dataset) == 2
    assert dataset.left_out == {f'{root}/pairs.jsonl': {'empty caption': 1}}


def test_first_images_alone(root):
    assert len(build(root, indices=1)) == 1


def test_captions_reach_the_sample(root):
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='mmpretrain.PackInputs', algorithm_keys=('text',)),
    ]
    packed = build(root, pipeline=pipeline)[0]
    assert packed['inputs'].shape == (3, 8, 8)
    assert packed['data_samples'].text == ['a cat', 'a pet', 'a cat again']


def test_a_broken_image_is_an_error_and_no_other_one_is_taken(root):
    (root / 'dog.png').write_bytes(b'no image')
    dataset = build(root, pipeline=[dict(type='LoadImageFromFile')])
    with pytest.raises(BrokenSampleError, match=r'dog\.png'):
        dataset[1]
    (root / 'dog.png').unlink()
    with pytest.raises(MissingSampleError, match=r'dog\.png'):
        dataset[1]


def test_rows_of_one_image_within_parquet_are_one_item(tmp_path):
    pa = pytest.importorskip('pyarrow')
    import pyarrow.parquet as pq

    images = [dict(bytes=bytes([n // 2]), path=f'{n // 2}.png') for n in range(4)]
    images.append(dict(bytes=b'other', path='0.png'))
    table = pa.table({'image': images, 'caption': ['a', 'b', 'c', 'd', 'e']})
    pq.write_table(table, tmp_path / 'pairs.parquet')
    dataset = build(tmp_path, ann_file='pairs.parquet')
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    assert [info['text'] for info in infos] == [['a', 'b'], ['c', 'd'], ['e']]
    assert [info['img_row'] for info in infos] == [0, 2, 4]


def test_images_within_parquet_are_told_apart_by_their_rows(tmp_path):
    pa = pytest.importorskip('pyarrow')
    import pyarrow.parquet as pq

    images = [dict(bytes=bytes([n]), path='same.png') for n in range(2)]
    table = pa.table({'image': images, 'caption': [['a', 'b'], ['c']]})
    pq.write_table(table, tmp_path / 'pairs.parquet')
    dataset = build(tmp_path, ann_file='pairs.parquet')
    infos = [dataset.get_data_info(index) for index in range(2)]
    assert [(info['img_row'], info['text']) for info in infos] == [(0, ['a', 'b']), (1, ['c'])]
