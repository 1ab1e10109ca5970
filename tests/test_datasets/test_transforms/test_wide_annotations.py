import numpy as np
import pytest
from mmseg.registry import TRANSFORMS
from PIL import Image

import pgseg_mm.datasets  # noqa: F401  (registers the transform)
from pgseg_mm.datasets.transforms.wide_annotations import as_bytes


def load(path, reduce_zero_label=False, label_map=None, **settings):
    transform = TRANSFORMS.build(dict(type='LoadWideAnnotations', **settings))
    results = dict(
        seg_map_path=str(path),
        reduce_zero_label=reduce_zero_label,
        label_map=label_map,
        seg_fields=[],
    )
    results = transform(results)
    assert results['seg_fields'] == ['gt_seg_map']
    assert results['gt_seg_map'].dtype == np.uint16
    return results['gt_seg_map'].tolist()


@pytest.fixture
def wide(tmp_path):
    path = tmp_path / 'wide.png'
    Image.fromarray(np.array([[0, 1, 255], [256, 1203, 65535]], np.uint16)).save(path)
    return path


@pytest.fixture
def coloured(tmp_path):
    path = tmp_path / 'coloured.png'
    pixels = [[[0, 0, 0], [255, 0, 0], [0, 1, 0]], [[151, 3, 0], [232, 3, 0], [1, 0, 0]]]
    Image.fromarray(np.array(pixels, np.uint8)).save(path)
    return path


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
def test_both_codings(wide, coloured, backend):
    assert load(wide, imdecode_backend=backend) == [[0, 1, 255], [256, 1203, 65535]]
    assert load(coloured, rgb=True, ignore_index=1000, imdecode_backend=backend) == [
        [0, 255, 256],
        [919, 1000, 1],
    ]


def test_files_of_eight_bits_are_loaded_as_mmseg_does(tmp_path):
    labels = np.array([[0, 1], [254, 255]], np.uint8)
    Image.fromarray(labels).save(tmp_path / 'narrow.png')
    for reduce in (False, True):
        expected = TRANSFORMS.build(dict(type='LoadAnnotations'))(
            dict(seg_map_path=str(tmp_path / 'narrow.png'), reduce_zero_label=reduce, seg_fields=[])
        )
        found = load(tmp_path / 'narrow.png', reduce, ignore_index=255)
        assert found == expected['gt_seg_map'].tolist()


def test_zero_is_ignored_and_the_ignored_label_stays(wide, coloured):
    assert load(wide, reduce_zero_label=True) == [[65535, 0, 254], [255, 1202, 65535]]
    assert load(coloured, reduce_zero_label=True, rgb=True, ignore_index=1000) == [
        [1000, 254, 255],
        [918, 1000, 0],
    ]


@pytest.mark.parametrize('labels', [[[0.7, 1.9]], [[-1.0, 2.0]]])
def test_labels_that_are_none_are_refused(tmp_path, labels):
    Image.fromarray(np.array(labels, np.float32)).save(tmp_path / 'a.tiff')
    load = TRANSFORMS.build(dict(type='LoadWideAnnotations', imdecode_backend='pillow'))
    with pytest.raises(ValueError, match='negative, or no whole numbers'):
        load(dict(seg_map_path=str(tmp_path / 'a.tiff'), seg_fields=[]))


def test_labels_are_mapped_at_once(wide):
    swapped = {0: 1, 1: 0, 255: 65535, 256: 255}
    assert load(wide, label_map=swapped) == [[1, 0, 65535], [255, 1203, 65535]]


def test_other_files_are_refused(tmp_path, wide, coloured):
    with pytest.raises(ValueError, match='coloured.png has 3 channels, expected one channel'):
        load(coloured)
    with pytest.raises(ValueError, match='wide.png has 1 channels, expected an RGB image'):
        load(wide, rgb=True)
    Image.fromarray(np.array([[70000]], np.int32)).save(tmp_path / 'deep.tif')
    with pytest.raises(ValueError, match='has the label 70000'):
        load(tmp_path / 'deep.tif')
    with pytest.raises(ValueError, match='ignore_index must be from 0 to 65535'):
        load(wide, ignore_index=-1)


@pytest.mark.parametrize(
    ('labels', 'expected'),
    [
        (np.array([[0, 7, 65535]], np.uint16), [[0, 7, 255]]),
        (np.array([[0, 7, -1]], np.int32), [[0, 7, 255]]),
        (np.array([[0.0, 7.0, 255.0]], np.float32), [[0, 7, 255]]),
    ],
)
def test_labels_that_fit_into_bytes(labels, expected):
    narrow = as_bytes(labels)
    assert narrow.dtype == np.uint8 and narrow.tolist() == expected


@pytest.mark.parametrize(
    'labels', [np.array([[0, 300]], np.uint16), np.array([[1.5]]), np.array([[np.nan]])]
)
def test_labels_that_would_change_are_refused(labels):
    with pytest.raises(ValueError, match=r'labels of 8 bits are whole numbers from 0 to 255'):
        as_bytes(labels)
