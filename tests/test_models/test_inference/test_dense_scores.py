"""Scores of pixels from those of patches, against plain interpolation of everything."""

import pytest
import torch
import torch.nn.functional as F

from pgseg_mm.models.inference import dense_scores, score_pieces
from pgseg_mm.models.inference.dense_scores import DenseScores, join_windows, padding_of
from pgseg_mm.models.inference.pixel_classes import classify_pixels
from pgseg_mm.models.inference.sliding_window import sliding_windows

CLASSES = 7
SIZES = [
    ((40, 56), (32, 32), (16, 16)),
    ((20, 30), (32, 32), (16, 16)),
    ((33, 70), (16, 24), (5, 7)),
]


def scores_of(windows, patches=(4, 5), seed=0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(CLASSES, *patches, generator=generator) for _ in windows]


def plain_average(size, windows, scores, divisor=1) -> torch.Tensor:
    """As mmseg's slide inference: each window interpolated, added up, divided by the counts."""
    total, count = torch.zeros(CLASSES, *size), torch.zeros(size)
    for window, patches in zip(windows, scores, strict=True):
        (top, bottom), (left, right) = (padding_of(side, divisor) for side in window.size)
        height, width = window.size
        full = F.interpolate(
            patches[None], size=(top + height + bottom, left + width + right), mode='bilinear'
        )[0, :, top : top + height, left : left + width]
        total[:, window.top : window.bottom, window.left : window.right] += full
        count[window.top : window.bottom, window.left : window.right] += 1
    return total / count


@pytest.fixture(params=[False, True], ids=['at once', 'in pieces'])
def pieces(request, monkeypatch) -> None:
    """Everything at once, or in pieces of few rows, few classes and few columns of pixels."""
    if request.param:
        monkeypatch.setattr(score_pieces, 'CPU_ELEMENTS', 120)
        monkeypatch.setattr(dense_scores, 'NARROW', 3)
        monkeypatch.setattr(dense_scores, 'BAND', 9)


@pytest.mark.usefixtures('pieces')
@pytest.mark.parametrize(('size', 'window', 'stride'), SIZES)
@pytest.mark.parametrize('output', [None, (33, 47), (100, 80)])
def test_equals_plain_interpolation(size, window, stride, output):
    windows = sliding_windows(size, window, stride)
    scores = scores_of(windows)
    joined = join_windows(size, windows, scores)
    assert joined.size == size
    dense = plain_average(size, windows, scores)
    torch.testing.assert_close(joined.pieces().logits(), dense)
    output = output or size
    resized = F.interpolate(dense[None], size=output, mode='bilinear', align_corners=False)[0]
    torch.testing.assert_close(joined.logits(output), resized)
    assert torch.equal(joined.class_map(output), joined.logits(output).argmax(0))
    assert (joined.class_map(output) == resized.argmax(0)).float().mean() > 0.999


@pytest.mark.parametrize('divisor', [8, 14])
def test_what_was_padded_is_cut_back(divisor):
    size, window, stride = (45, 61), (24, 30), (16, 17)
    windows = sliding_windows(size, window, stride)
    scores = scores_of(windows)
    joined = join_windows(size, windows, scores, divisor)
    expected = plain_average(size, windows, scores, divisor)
    torch.testing.assert_close(joined.pieces().logits(), expected)
    assert (
        padding_of(30, 14) == (6, 6) and padding_of(45, 8) == (1, 2) and padding_of(8, 8) == (0, 0)
    )


@pytest.mark.parametrize(
    ('direction', 'axes'), [('horizontal', [2]), ('vertical', [1]), ('diagonal', [1, 2])]
)
def test_flip_mirrors_pixels_and_image(direction, axes):
    windows = sliding_windows((40, 56), (32, 32), (16, 16))
    guide = torch.rand(3, 40, 56)
    joined = join_windows((40, 56), windows, scores_of(windows))._replace(guide=guide)
    flipped = joined.flip(direction)
    torch.testing.assert_close(flipped.logits((33, 47)), joined.logits((33, 47)).flip(axes))
    assert torch.equal(flipped.guide, guide.flip(axes))


def test_one_of_several_backgrounds():
    windows = sliding_windows((20, 30), (32, 32), (16, 16))
    joined = join_windows((20, 30), windows, scores_of(windows))
    one = joined.with_background(2, 3).logits((20, 30))
    assert torch.equal(one, joined.logits((20, 30))[[2, 3, 4, 5, 6]])


def test_mean_scores_of_the_classes_that_win():
    grid = torch.tensor([[[0.9, 0.2]], [[0.1, 0.6]], [[0.0, 0.0]]])
    identity = torch.eye(2, dtype=torch.float64)
    scores = DenseScores(grid, torch.ones(3, 1, dtype=torch.float64), identity)
    _, means = classify_pixels([scores], (3, 2), class_scores=True)
    assert means.tolist() == pytest.approx([0.9, 0.6, 0.0])


def test_another_size_takes_the_nearest_pixels():
    windows = sliding_windows((8, 30), (8, 8), (8, 8))
    joined = join_windows((8, 30), windows, scores_of(windows))
    smaller = joined.at_size((3, 30))
    assert smaller.size == (3, 30)
    torch.testing.assert_close(smaller.pieces().logits(), joined.pieces().logits()[:, [1, 4, 6]])


def test_half_precision_is_kept_out_of_interpolation():
    windows = sliding_windows((40, 56), (32, 32), (16, 16))
    joined = join_windows((40, 56), windows, scores_of(windows))
    plain = plain_average((40, 56), windows, scores_of(windows))
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(joined.logits((40, 56)), plain)


def test_pieces_are_small(monkeypatch):
    """No piece holds more than is allowed, nor does a class map hold more than pieces."""
    monkeypatch.setattr(score_pieces, 'CPU_ELEMENTS', 500)
    windows = sliding_windows((40, 56), (32, 32), (16, 16))
    seen = []
    made = join_windows((40, 56), windows, scores_of(windows)).pieces((60, 50))

    def make(columns, rows):
        seen.append(made.make(columns, rows))
        return seen[-1]

    made._replace(make=make).best()
    assert max(piece.numel() for piece in seen) <= 500
    assert sum(piece.numel() for piece in seen) == CLASSES * 60 * 50


@pytest.mark.usefixtures('pieces')
@pytest.mark.parametrize('output', [(20, 30), (33, 47), (3, 4)])
def test_scores_of_one_window_can_skip_its_pixels(output):
    windows = sliding_windows((20, 30), (20, 30), (20, 30))
    scores = scores_of(windows)
    guide = torch.rand(3, 20, 30)
    joined = join_windows((20, 30), windows, scores, direct=True)._replace(guide=guide)
    assert joined.size == (20, 30)
    resized = F.interpolate(scores[0][None], size=output, mode='bilinear')[0]
    torch.testing.assert_close(joined.logits(output), resized)
    for direction, axes in (('horizontal', [2]), ('diagonal', [1, 2])):
        flipped = joined.flip(direction)
        torch.testing.assert_close(flipped.logits(output), resized.flip(axes))
        assert flipped.size == (20, 30) and torch.equal(flipped.guide, guide.flip(axes))
    assert joined.at_size((20, 30)) == joined._replace(image_size=(20, 30))
    other = joined.at_size((7, 30))
    assert other.size == (7, 30)
    torch.testing.assert_close(other.logits(output), resized)


def test_several_or_padded_windows_have_pixels():
    windows = sliding_windows((20, 30), (20, 20), (20, 20))
    with pytest.raises(ValueError, match='one window without padding'):
        join_windows((20, 30), windows, scores_of(windows), direct=True)
    with pytest.raises(ValueError, match='one window without padding'):
        join_windows((20, 20), windows[:1], scores_of(windows[:1]), 8, direct=True)
