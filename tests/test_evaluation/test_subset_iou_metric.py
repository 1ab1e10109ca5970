import math

import pytest
import torch
from mmseg.registry import METRICS

import pgseg_mm.evaluation  # noqa: F401  (registers the metric)

CLASSES = ('sky', 'cat', 'dog', 'car')


def build(subsets, **kwargs):
    return METRICS.build(dict(type='SubsetIoUMetric', subsets=subsets, **kwargs))


def evaluate(metric, prediction, label, classes=CLASSES):
    """Evaluate one image."""
    metric.dataset_meta = dict(classes=classes)
    sample = dict(
        pred_sem_seg=dict(data=torch.tensor(prediction)),
        gt_sem_seg=dict(data=torch.tensor(label)),
    )
    metric.process({}, [sample])
    return metric.evaluate(size=1)


# By hand: sky 2/3, cat 1/3, dog 2/3, car does not occur; the last pixel is ignored.
LABEL = [[0, 0, 1, 1], [1, 2, 2, 255]]
PREDICTION = [[0, 0, 0, 1], [2, 2, 2, 1]]
SKY, CAT, DOG = 2 / 3, 1 / 3, 2 / 3


def test_each_subset_has_its_mean_over_the_classes_that_occur():
    metric = build(dict(animals=['cat', 'dog'], machines=['car'], rest=['sky', 'car']))

    results = evaluate(metric, PREDICTION, LABEL)

    assert results['mIoU_animals'] == round((CAT + DOG) / 2 * 100, 2)
    assert results['mIoU_rest'] == round(SKY * 100, 2)
    assert math.isnan(results['mIoU_machines'])
    assert results['mIoU'] == pytest.approx((SKY + CAT + DOG) / 3 * 100, abs=0.01)
    assert results['aAcc'] == pytest.approx(5 / 7 * 100, abs=0.01)


def test_a_subset_may_be_a_text_file(tmp_path):
    path = tmp_path / 'animals.txt'
    path.write_text('cat\ndog\n\n', encoding='utf-8')

    results = evaluate(build(dict(animals=str(path))), PREDICTION, LABEL)

    assert results['mIoU_animals'] == 50.0


def test_subsets_are_reported_beside_other_metrics_than_iou():
    results = evaluate(build(dict(animals=['cat']), iou_metrics=['mDice']), PREDICTION, LABEL)

    assert results['mIoU_animals'] == round(CAT * 100, 2)
    assert 'mDice' in results
    assert 'mIoU' not in results


def test_names_may_have_spaces_around_them():
    classes = ('sky', 'cat', 'bed ', 'car')  # as mmseg's ADE20K has it
    for name in ('bed', 'bed '):
        results = evaluate(build(dict(rooms=[name, 'sky'])), PREDICTION, LABEL, classes)
        assert results['mIoU_rooms'] == round((SKY + DOG) / 2 * 100, 2)


def test_an_unknown_class_is_named_before_the_evaluation_starts():
    metric = build(dict(animals=['cat', 'unicorn']))

    with pytest.raises(ValueError, match=r"'animals' names classes .*\['unicorn'\]"):
        metric.dataset_meta = dict(classes=CLASSES)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.txt of subset 'seen' does not exist"):
        build(dict(seen=str(tmp_path / 'nothing.txt')))


def test_an_empty_subset_is_refused():
    with pytest.raises(ValueError, match="'seen' names no class"):
        build(dict(seen=[]))


def test_formatting_without_labels_computes_nothing(tmp_path):
    metric = build(dict(animals=['cat']), format_only=True, output_dir=str(tmp_path))
    metric.dataset_meta = dict(classes=CLASSES)
    sample = dict(pred_sem_seg=dict(data=torch.tensor(PREDICTION)), img_path='cat.jpg')

    metric.process({}, [sample])

    assert metric.compute_metrics(metric.results) == {}
    assert (tmp_path / 'cat.png').is_file()
