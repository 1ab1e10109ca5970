import json
import logging
import pickle

import numpy as np
import pytest
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from pgseg_mm.datasets import ImageTextDataset

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
        'pgseg_mm.datasets.image_text.print_log',
        lambda message, logger, level: warnings.append((message, level)),
    )
    name = write(root, 'pairs.csv', 'image,caption\ncat.png,\ndog.png,a dog\ncat.png,  \n')
    dataset = make(root, name)

    assert len(dataset) == 1
    assert dataset[0]['ann_row'] == 'line 3'
    [(message, level)] = warnings
    assert 'left out 2 of 3 rows' in message
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
        ('a.csv', 'image,caption\na.png,\n', r'no usable row \(1 with an empty caption\)'),
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
    dataset = make(root, name, pipeline=[dict(LOAD[0], imdecode_backend=backend)])

    with pytest.raises(ValueError, match=r'cat.png \(line 2 of .*cannot be read') as error:
        dataset[0]
    assert error.value.__cause__ is not None


def test_an_mmcv_that_does_not_check_what_it_decoded_makes_no_difference(root, monkeypatch):
    def transform(self, results):
        decoded = None
        return dict(results, img=decoded, img_shape=decoded.shape)

    monkeypatch.setattr('mmcv.transforms.LoadImageFromFile.transform', transform)
    dataset = make(root, write(root, 'pairs.csv', FILES['pairs.csv']), pipeline=LOAD)

    with pytest.raises(ValueError, match=r'cat.png \(line 2 of .*cannot be read'):
        dataset[0]


def test_a_missing_image_is_named_with_its_row(root):
    name = write(root, 'pairs.json', '[{"image": "bird.png", "caption": "a bird"}]')
    dataset = make(root, name, pipeline=LOAD)

    with pytest.raises(FileNotFoundError, match=r'bird.png \(entry 1 of .*does not exist'):
        dataset[0]


def test_an_error_of_another_transform_stays_what_it_is(root):
    def broken(results):
        raise OSError('out of paper')

    name = write(root, 'pairs.json', FILES['pairs.json'])
    dataset = make(root, name, pipeline=[*LOAD, broken])

    with pytest.raises(OSError, match='^out of paper$'):
        dataset[0]
