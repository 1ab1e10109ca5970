import numpy as np
import pytest
from PIL import Image

from pgseg_mm.visualization import draw_diagnosis

IOUS = {'oracle': [80, 60, np.nan], 'present': [70, 60, np.nan], 'free': [10, 40, 0]}
SHARES = np.array([[0.2, 0.8], [0.02, 0.98]])


def test_bars_and_confusions_are_drawn(tmp_path):
    file = tmp_path / 'new' / 'seen.png'
    figure = draw_diagnosis(['cat', 'dog', 'car'], IOUS, ['cat', 'dog'], SHARES, file)
    bars, matrix = figure.axes
    assert [label.get_text() for label in bars.get_yticklabels()] == ['dog', 'cat']
    drawn = {box.get_label(): [bar.get_width() for bar in box] for box in bars.containers}
    assert drawn == {'oracle': [60, 80], 'present': [60, 70], 'free': [40, 10]}
    heights = [box[0].get_height() for box in bars.containers]
    assert heights == sorted(heights, reverse=True) and len(set(heights)) == 3
    assert sorted(text.get_text() for text in matrix.texts) == ['20', '80', '98']
    with Image.open(file) as image:
        assert image.width == 750


def test_of_many_classes_those_are_drawn_that_lose_most():
    classes = [f'class {i}' for i in range(60)]
    ious = {'oracle': [90] * 60, 'free': list(range(60))}
    bars = draw_diagnosis(classes, ious, ['a'], np.zeros((1, 1))).axes[0]
    names = [label.get_text() for label in bars.get_yticklabels()]
    assert names == [f'class {i}' for i in reversed(range(40))]
    assert '40 of 60 classes' in bars.get_title(loc='right')


@pytest.mark.parametrize(
    ('ious', 'shares', 'message'),
    [
        ({}, SHARES, 'from 1 to 3 ways'),
        ({'oracle': [1, 2]}, SHARES, 'each of the 3 classes'),
        (IOUS, SHARES[:1], '2 classes need as many rows'),
    ],
)
def test_sizes_must_fit(ious, shares, message):
    with pytest.raises(ValueError, match=message):
        draw_diagnosis(['cat', 'dog', 'car'], ious, ['cat', 'dog'], shares)
