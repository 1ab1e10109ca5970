import numpy as np
import pytest
import torch

from pgseg_mm.evaluation import ConfusionCounts, count_pairs

LABEL = torch.tensor([[0, 0, 0, 0], [1, 1, -1, -1]])
PREDICTION = torch.tensor([[0, 1, 1, 1], [1, 0, 3, 0]])


@pytest.fixture
def counts() -> ConfusionCounts:
    """Of two images; class 2 does not occur in the labels, and class 3 nowhere."""
    others = count_pairs(torch.full((1, 2), 2), torch.tensor([[1, 1]]), 4)
    images = [count_pairs(PREDICTION, LABEL, 4), others]
    return ConfusionCounts.of_images(['cat', 'dog', 'car', 'sky'], images)


def test_pairs_of_an_image_are_counted_without_ignored_pixels():
    pairs, pixels = count_pairs(PREDICTION, LABEL, 4)
    assert dict(zip(pairs.tolist(), pixels.tolist(), strict=True)) == {0: 1, 1: 3, 4: 1, 5: 1}


def test_figures_by_hand(counts):
    assert counts.areas.tolist() == [[1, 1, 0, 0], [2, 4, 2, 0], [4, 4, 0, 0]]
    np.testing.assert_allclose(counts.class_iou, [20, 100 / 7, 0, np.nan])
    assert counts.miou == pytest.approx((20 + 100 / 7) / 3)
    assert counts.accuracy == 25


def test_confusions_come_by_their_share_of_the_class(counts):
    assert counts.largest(2) == [('cat', 'dog', 0.75, 3), ('dog', 'car', 0.5, 2)]
    assert len(counts.largest(9)) == 3
    np.testing.assert_allclose(counts.matrix([1, 0]), [[0.25, 0.25], [0.75, 0.25]])
    np.testing.assert_allclose(counts.matrix([3]), [[0]])


def test_many_classes_need_no_table_of_all_pairs():
    classes = [str(i) for i in range(100_000)]
    image = count_pairs(torch.tensor([[99_999, 5]]), torch.tensor([[99_999, 99_998]]), len(classes))
    found = ConfusionCounts.of_images(classes, [image])
    assert found.pixels.tolist() == [1, 1]
    assert found.largest(1)[0][:2] == ('99998', '5')


def test_without_a_counted_pixel_there_is_no_figure():
    empty = ConfusionCounts.of_images(['cat'], [])
    assert np.isnan(empty.miou) and np.isnan(empty.accuracy)
    assert empty.largest(3) == []
