import pytest
import torch
import torch.nn.functional as F

from pgseg_mm.models.inference import stitching
from pgseg_mm.models.inference.pixel_classes import classify_pixels, mean_logits
from pgseg_mm.models.inference.score_pieces import better_of
from pgseg_mm.models.inference.sliding_window import sliding_windows
from pgseg_mm.models.inference.stitching import StitchedScores, mean_class_map, stitch


def dense_average(size, windows, groups, scores):
    """The plain way: dense scores of every window, added up and divided."""
    total = torch.zeros(scores[0].shape[1], *size)
    count = torch.zeros(size)
    for (top, left, bottom, right), window_groups, window_scores in zip(
        windows, groups, scores, strict=True
    ):
        total[:, top:bottom, left:right] += window_scores.T[:, window_groups]
        count[top:bottom, left:right] += 1
    return total / count


def random_image(size, window, stride, num_groups=4, num_classes=7, blocks=5):
    windows = sliding_windows(size, window, stride)
    generator = torch.Generator().manual_seed(0)
    groups, scores = [], []
    for w in windows:
        coarse = torch.randint(num_groups, (1, 1, blocks, blocks), generator=generator)
        groups.append(F.interpolate(coarse.float(), size=w.size, mode='nearest')[0, 0].long())
        scores.append(torch.rand(num_groups, num_classes, generator=generator))
    return windows, groups, scores


SIZES = [
    ((40, 56), (32, 32), (16, 16)),
    ((20, 30), (32, 32), (16, 16)),
    ((33, 70), (16, 24), (5, 7)),
]


@pytest.mark.parametrize(('size', 'window', 'stride'), SIZES)
@pytest.mark.parametrize('output', [(40, 56), (33, 47), (100, 80)])
def test_equals_dense_scores(size, window, stride, output, monkeypatch):
    monkeypatch.setattr(stitching, 'SCORE_ELEMENTS', 200)
    windows, groups, scores = random_image(size, window, stride)
    dense = dense_average(size, windows, groups, scores)
    stitched = stitch(size, windows, groups, scores)
    torch.testing.assert_close(stitched.table.T[:, stitched.rows], dense)
    resized = F.interpolate(dense[None], size=output, mode='bilinear', align_corners=False)[0]
    torch.testing.assert_close(stitched.logits(output), resized)
    assert torch.equal(stitched.class_map(output), resized.argmax(0))
    best = resized.max(dim=0)
    torch.testing.assert_close(stitched.scores_of(best.indices), best.values)


def test_single_noisy_pixels_equal_dense_scores():
    index = torch.randint(6, (30, 40), generator=torch.Generator().manual_seed(1))
    scores = StitchedScores(torch.rand(6, 9), index)
    assert torch.equal(scores.class_map((47, 31)), scores.logits((47, 31)).argmax(0))


def test_a_class_that_is_best_in_no_row_wins_in_a_mixture():
    """Between rows 0 and 1 the compromise, class 2, is the best one."""
    table = torch.tensor([[0.6, 0.0, 0.5, 0.0], [0.0, 0.6, 0.5, 0.0]])
    scores = StitchedScores(table, torch.tensor([[0, 1], [0, 1]]))
    assert scores.class_map((2, 2)).tolist() == [[0, 1], [0, 1]]
    assert scores.class_map((2, 6)).tolist() == [[0, 0, 2, 2, 1, 1]] * 2


def test_pixels_with_equal_scores_take_the_first_class():
    scores = StitchedScores(torch.full((2, 3), 0.25), torch.tensor([[0, 1], [1, 0]]))
    assert not scores.class_map((5, 5)).any()


def test_classes_without_any_score_are_never_mixed(monkeypatch):
    """Two admitted classes of 171: chunks hold as many more pixels."""
    table = torch.zeros(2, 171)
    table[0, 5], table[1, 170] = 0.9, 0.6
    mixed = []
    mix = StitchedScores._mix
    monkeypatch.setattr(
        StitchedScores, '_mix', lambda self, *args: mixed.append(mix(self, *args)) or mixed[-1]
    )
    scores = StitchedScores(table, torch.tensor([[0, 0, 1], [0, 1, 1]]))
    assert torch.equal(scores.class_map((7, 9)), scores.logits((7, 9)).argmax(0))
    assert [part.shape[1] for part in mixed] == [3]


@pytest.mark.parametrize('output', [(30, 41), (47, 31)])
def test_views_of_several_sizes_equal_the_mean_of_dense_scores(output, monkeypatch):
    monkeypatch.setattr(stitching, 'SCORE_ELEMENTS', 200)
    views = []
    for number, size in enumerate([(30, 41), (20, 25), (51, 60)]):
        windows, groups, scores = random_image(size, (32, 32), (16, 16), blocks=3 + number)
        views.append(stitch(size, windows, groups, [part / (number + 1) for part in scores]))
    dense = torch.stack([view.logits(output) for view in views]).mean(0)
    torch.testing.assert_close(mean_logits(views, output), dense)
    assert torch.equal(mean_class_map(views, output), dense.argmax(0))


def test_views_that_agree_are_not_mixed(monkeypatch):
    monkeypatch.setattr(StitchedScores, '_mix', lambda *_: pytest.fail('mixed'))
    one = StitchedScores(torch.tensor([[0.1, 0.9], [0.4, 0.6]]), torch.zeros(4, 6).long())
    other = StitchedScores(torch.tensor([[0.0, 0.2]]), torch.zeros(5, 5).long())
    assert mean_class_map([one, other], (7, 8)).eq(1).all()


def test_a_class_of_one_view_only_may_win():
    """Class 2 has no score at all in the second view."""
    one = StitchedScores(torch.tensor([[0.0, 0.1, 0.9]]), torch.zeros(3, 3).long())
    other = StitchedScores(torch.tensor([[0.5, 0.0, 0.0]]), torch.zeros(3, 3).long())
    assert mean_class_map([one, other], (3, 3)).eq(2).all()


@pytest.mark.parametrize(
    ('direction', 'expected'),
    [
        ('horizontal', [[1, 0], [3, 2]]),
        ('vertical', [[2, 3], [0, 1]]),
        ('diagonal', [[3, 2], [1, 0]]),
    ],
)
def test_flip_mirrors_pixels(direction, expected):
    scores = StitchedScores(torch.eye(4), torch.tensor([[0, 1], [2, 3]]))
    assert scores.flip(direction).class_map((2, 2)).tolist() == expected


@pytest.mark.parametrize('size', [(600, 800), (3000, 4000)])
def test_mean_scores_of_many_pixels_are_exact(size):
    scores = StitchedScores(torch.tensor([[0.3, 0.1], [0.1, 0.7]]), torch.tensor([[0, 1]] * 2))
    _, means = classify_pixels([scores], size, class_scores=True)
    dense = scores.logits((1, size[1]))[:, 0].double()
    best = dense.max(dim=0)
    expected = [best.values[best.indices == number].mean() for number in (0, 1)]
    torch.testing.assert_close(means.double(), torch.stack(expected), atol=1e-6, rtol=1e-5)


def test_one_of_several_backgrounds_goes_before_the_classes():
    scores = StitchedScores(torch.arange(10.0).view(2, 5), torch.zeros(2, 2, dtype=torch.long))
    assert scores.with_background(2, 3).table.tolist() == [[2, 3, 4], [7, 8, 9]]


@pytest.mark.parametrize('direction, axes', [('horizontal', (-1,)), ('diagonal', (-2, -1))])
def test_the_image_of_a_refinement_is_flipped_with_the_scores(direction, axes):
    guide = torch.rand(3, 4, 5)
    scores = StitchedScores(torch.eye(4), torch.tensor([[0, 1], [2, 3]]), guide)
    assert torch.equal(scores.flip(direction).guide, guide.flip(axes))


def test_the_first_of_equal_columns_is_the_best():
    before = better_of(None, torch.tensor([1, 3]), torch.ones(2, 1, 2))
    after = better_of(before, torch.tensor([5]), torch.tensor([[[1.0, 2.0]]]))
    assert before.columns.tolist() == [[1, 1]] and after.columns.tolist() == [[1, 5]]
