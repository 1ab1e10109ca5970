import numpy as np
import pytest
import torch
from mmseg.registry import METRICS
from PIL import Image

from pgseg_mm.evaluation import zero_shot_iou_metric


def build(num_classes=3, **kwargs):
    metric = METRICS.build(dict(type='ZeroShotIoUMetric', **kwargs))
    metric.dataset_meta = dict(classes=[f'class {label}' for label in range(num_classes)])
    return metric


def sample(prediction, label=None, path='cat.jpg', **meta):
    data = dict(pred_sem_seg=dict(data=torch.as_tensor(prediction)[None]), img_path=path, **meta)
    if label is not None:
        data['gt_sem_seg'] = dict(data=torch.as_tensor(label)[None])
    return data


def test_areas_of_a_data_set():
    """By hand; 1000 is ignored, 255 is a class."""
    metric = build(300, ignore_index=1000)

    metric.process({}, [sample([[0, 255], [255, 299]], [[0, 255], [299, 1000]])])
    metric.process({}, [sample([[255, 1]], [[255, 1]], path='dog.jpg')])
    results = metric.evaluate(size=2)

    occurring = [0, 1, 255, 299]
    areas = metric.areas
    assert areas.intersect[occurring].tolist() == [1, 1, 2, 0]
    assert areas.prediction[occurring].tolist() == [1, 1, 3, 0]
    assert areas.label[occurring].tolist() == [1, 1, 2, 1]
    assert areas.union[occurring].tolist() == [1, 1, 3, 1]
    assert areas.union.sum() == 6
    assert results == {
        'aAcc': 80.0,
        'mIoU': pytest.approx((1 + 1 + 2 / 3) / 4 * 100, abs=0.005),
        'mAcc': 75.0,
    }


def test_areas_that_32_bits_cannot_hold_are_exact():
    metric = build(2)
    pixels = (2**24, 1, 2**24)
    metric.compute_metrics([np.array([[1], [area], [area], [area + 1]]) for area in pixels])
    assert metric.areas.label.tolist() == [0, 2**25 + 4]
    assert metric.areas.intersect.tolist() == [0, 2**25 + 1]
    in_32_bits = sum(torch.tensor(float(area)) for area in pixels)
    assert in_32_bits.item() != 2**25 + 1


def test_an_image_costs_what_occurs_in_it():
    metric = build(1204)
    metric.process({}, [sample([[1, 2]], [[1, 1]])])
    assert metric.results[0].shape == (4, 2)


@pytest.mark.parametrize(
    ('prediction', 'label', 'what'), [(0, 3, 'label map'), (3, 0, 'prediction'), (0, 255, None)]
)
def test_a_label_out_of_range_is_an_error(prediction, label, what):
    metric = build(3)
    data = [sample([[prediction]], [[label]])]
    if what is None:
        metric.process({}, data)
    else:
        with pytest.raises(ValueError, match=f'the {what} of cat.jpg has the label 3, which is'):
            metric.process({}, data)


@pytest.mark.parametrize(
    ('settings', 'reduced', 'mode', 'written'),
    [
        ({}, False, 'L', [0, 2]),
        ({}, True, 'L', [1, 3]),
        ({'label_ids': [7, 8, 33]}, False, 'L', [7, 33]),
        ({'label_ids': [7, 8, 33]}, True, 'L', [7, 33]),
        ({'label_ids': [0, 254, 255]}, False, 'L', [0, 255]),
        ({'label_ids': [0, 255, 256]}, False, 'I;16', [0, 256]),
        ({'label_ids': [1, 2, 919], 'rgb': True}, False, 'RGB', [[1, 0, 0], [919 % 256, 3, 0]]),
    ],
)
def test_predictions_are_written_in_the_ids_of_the_benchmark(
    tmp_path, settings, reduced, mode, written
):
    metric = build(output_dir=str(tmp_path), format_only=True, **settings)
    metric.process({}, [sample([[0, 2]], reduce_zero_label=reduced)])
    with Image.open(tmp_path / 'cat.png') as image:
        assert image.mode == mode
        assert np.array(image).tolist() == [written]
    assert metric.evaluate(size=1) == {}


def test_equal_names_in_several_folders(tmp_path):
    data = [
        sample([[label]], path=f'data/images/{name}/1.jpg')
        for label, name in enumerate(['train2017', 'val2017'])
    ]
    metric = build(output_dir=str(tmp_path), image_root='data/images', format_only=True)
    metric.process({}, [*data, data[0]])  # a sampler may repeat images
    for label, name in enumerate(['train2017', 'val2017']):
        assert np.array(Image.open(tmp_path / name / '1.png')).tolist() == [[label]]

    metric = build(output_dir=str(tmp_path), format_only=True)
    with pytest.raises(ValueError, match='train2017/1.jpg and .*val2017/1.jpg would be the same'):
        metric.process({}, data)


def test_all_files_are_known_before_the_first_is_written(tmp_path):
    metric = build(output_dir=str(tmp_path), image_root='data')
    metric.check_outputs(['data/x/a.jpg', 'data/y/a.jpg', 'data/x/a.jpg'])
    with pytest.raises(ValueError, match='elsewhere/z/b.jpg would be the same file'):
        metric.check_outputs(['data/b.jpg', 'elsewhere/z/b.jpg'])
    assert not list(tmp_path.iterdir())


def test_a_label_map_of_another_size_is_an_error():
    metric = build()
    with pytest.raises(ValueError, match=r'label map of cat.jpg is of \(1, 3\) .* of \(2, 2\)'):
        metric.process({}, [sample([[0, 1], [1, 2]], [[0, 1, 2]])])


def test_an_argument_that_there_is_not_is_refused():
    with pytest.raises(TypeError, match=r'takes no argument ignore_idx, lable_ids; .*ignore_index'):
        build(ignore_idx=0, lable_ids=[1, 2])
    assert build(nan_to_num=0, beta=2).beta == 2


def test_a_class_that_is_ignored_is_told(monkeypatch):
    told = []
    monkeypatch.setattr(zero_shot_iou_metric, 'print_log', lambda text, **_: told.append(text))
    build().dataset_meta = dict(classes=[f'c{number}' for number in range(255)])
    assert not told
    build().dataset_meta = dict(classes=[f'c{number}' for number in range(300)])
    assert "ignore_index=255 is the label of 'c255'" in told[0]


def test_ids_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match='from 0 to 65535'):
        build(label_ids=[0, 1, 65536])
    with pytest.raises(ValueError, match='label_ids has 2 ids, but the data set has 3 classes'):
        build(label_ids=[0, 1])
