import cv2
import numpy as np
import pytest

from pgseg_mm.visualization.colours import TOO_CLOSE, class_colours, distinct_colours, separate


def distances(colours: np.ndarray) -> np.ndarray:
    """Distances in CIELAB of all pairs."""
    lab = cv2.cvtColor(np.float32(colours)[None] / 255, cv2.COLOR_RGB2LAB)[0]
    pairs = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return pairs[np.triu_indices(len(lab), 1)]


def test_first_colours_are_the_most_distinct_and_always_the_same():
    colours = distinct_colours(1203)
    assert colours.shape == (1203, 3) and colours.dtype == np.uint8
    assert (distinct_colours(20) == colours[:20]).all()
    assert distances(colours[:20]).min() > 35
    assert distances(colours[:171]).min() > 12
    assert len(np.unique(colours, axis=0)) == 1203
    assert len(distinct_colours(5000)) == 5000


def test_background_is_black_and_a_palette_is_taken_as_it_is():
    assert class_colours(['Background', 'dog', 'cat'])[0].tolist() == [0, 0, 0]
    assert class_colours(['dog', 'background']).any(axis=1).all()
    palette = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert class_colours(['dog', 'cat'], palette).tolist() == palette[:2]
    with pytest.raises(ValueError, match='2 classes need as many colours, got 1'):
        class_colours(['dog', 'cat'], [[0, 0, 0]])


def test_classes_of_one_picture_never_look_alike():
    alike = np.uint8([[100, 100, number] for number in range(60)])
    labels = [*range(7, 47)]
    colours = separate(alike, labels)
    assert (colours[7] == alike[7]).all()  # the largest keeps its own
    assert (colours[:7] == alike[:7]).all() and (colours[47:] == alike[47:]).all()
    assert distances(colours[labels]).min() > TOO_CLOSE
    assert (alike == np.uint8([[100, 100, number] for number in range(60)])).all()


def test_colours_that_differ_are_kept():
    palette = np.uint8([[128, 64, 128], [244, 35, 232], [70, 70, 70], [107, 142, 35], [0, 0, 142]])
    assert (separate(palette, range(5)) == palette).all()


def test_no_class_need_occur():
    assert (separate(distinct_colours(3), []) == distinct_colours(3)).all()
