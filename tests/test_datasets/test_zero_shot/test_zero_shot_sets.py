"""Data sets that mmseg does not have."""

import numpy as np
import pytest
from mmseg.registry import DATASETS
from PIL import Image

import pgseg_mm.datasets  # noqa: F401  (registers the data sets)
from benchmark_zoo import BENCHMARKS
from pgseg_mm.datasets.zero_shot.wide_labels import WideLabelDataset, voc_colours
from pgseg_mm.text.vocabulary import Vocabulary

WIDE = {
    'ImageNetS50Dataset': ('imagenet_s50', 51, 1000),
    'ImageNetS300Dataset': ('imagenet_s300', 301, 1000),
    'ImageNetSDataset': ('imagenet_s919', 920, 1000),
    'LVISDataset': ('lvis', 1204, 65535),
}


@pytest.mark.parametrize(
    ('dataset', 'vocabulary', 'number'),
    [('COCOObjectDataset', 'coco_object', 81), ('DAVISMainObjectDataset', 'davis2016', 16)]
    + [(dataset, vocabulary, number) for dataset, (vocabulary, number, _) in WIDE.items()],
)
def test_classes_are_those_of_the_vocabulary(dataset, vocabulary, number):
    meta = DATASETS.build(dict(type=dataset, lazy_init=True)).metainfo
    assert len(meta['classes']) == number
    assert meta['classes'] == Vocabulary.from_file(vocabulary).names
    assert meta['classes'][0] == 'background'
    assert len(set(map(tuple, meta['palette']))) == number
    assert meta['label_map'] is None


@pytest.mark.parametrize('dataset', WIDE)
def test_chosen_classes_and_those_left_out(dataset):
    vocabulary, number, ignored = WIDE[dataset]
    names = Vocabulary.from_file(vocabulary).names
    chosen = (names[-1], names[0])

    built = DATASETS.build(dict(type=dataset, metainfo=dict(classes=chosen), lazy_init=True))

    expected = dict.fromkeys(range(number), ignored) | {number - 1: 0, 0: 1}
    assert built.label_map == expected
    assert built.ignore_index == ignored
    colours = voc_colours(number)
    assert list(built.metainfo['palette']) == [colours[-1], colours[0]]
    with pytest.raises(ValueError, match='unicorn'):
        DATASETS.build(dict(type=dataset, metainfo=dict(classes=['unicorn']), lazy_init=True))


def test_a_chosen_class_may_have_the_label_255(tmp_path):
    names = Vocabulary.from_file('lvis').names
    Image.fromarray(np.array([[0, 255, 1203]], np.uint16)).save(tmp_path / '1.png')
    Image.new('RGB', (3, 1)).save(tmp_path / '1.jpg')
    dataset = DATASETS.build(
        dict(
            type='LVISDataset',
            data_root=str(tmp_path),
            metainfo=dict(classes=names[:256]),
            pipeline=[dict(type='LoadWideAnnotations')],
        )
    )
    assert dataset[0]['gt_seg_map'].tolist() == [[0, 255, 65535]]


def test_lvis_has_the_images_that_have_a_label_map(tmp_path):
    (lvis,) = [benchmark for benchmark in BENCHMARKS if benchmark.name == 'lvis']
    lvis.write(tmp_path)
    prefix = dict(img_path='coco_stuff164k/images', seg_map_path='lvis/annotations/val')
    settings = dict(type='LVISDataset', data_root=str(tmp_path), data_prefix=prefix)

    dataset = DATASETS.build(settings)

    listed = [
        (item['img_path'], item['seg_map_path']) for item in map(dataset.get_data_info, range(4))
    ]
    assert listed == [
        (str(tmp_path / lvis.image.format(name)), str(tmp_path / lvis.label_map.format(name)))
        for name in sorted(lvis.names)
    ]
    assert len(dataset) == 4
    (tmp_path / 'some.txt').write_text(f'{lvis.names[2]}\n')
    assert len(DATASETS.build(dict(settings, ann_file='some.txt'))) == 1


def test_palettes_are_the_same_at_every_call_and_of_any_length():
    colours = voc_colours(5000)
    assert colours[:4] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert len(set(map(tuple, colours))) == 5000
    assert np.array(colours).max() <= 255 and voc_colours(9) == colours[:9]


class Wide(WideLabelDataset):
    IGNORE_INDEX = 1000


@pytest.mark.parametrize('own', [{}, {'classes': ('sky', 'dog', 'cat')}])
@pytest.mark.parametrize('chosen', [['sky', 'dog', 'cat'], ['cat', 'sky']])
def test_a_set_of_ones_own_needs_no_palette(own, chosen, monkeypatch):
    monkeypatch.setattr(Wide, 'METAINFO', own)
    dataset = Wide(metainfo=dict(classes=chosen), lazy_init=True)
    colours = voc_colours(3)
    numbers = [('sky', 'dog', 'cat').index(name) if own else i for i, name in enumerate(chosen)]
    assert [list(colour) for colour in dataset.metainfo['palette']] == [colours[n] for n in numbers]
