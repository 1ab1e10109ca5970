import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from drawn_text import record_text
from pgseg_mm.visualization import draw_segmentation, groups_of
from pgseg_mm.visualization.legend import draw_legend, legend_rows, occurring
from pgseg_mm.visualization.panels import outlines, resize_labels
from pgseg_mm.visualization.segmentation_picture import GAP, TITLE_HEIGHT

CLASSES = ['dog', 'cat', 'grass', 'sky']
PALETTE = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]]
IMAGE = np.full((60, 80, 3), (90, 120, 150), np.uint8)
HEIGHT, WIDTH = 336, 448
"""Size of a panel of that image."""


@pytest.fixture
def written(monkeypatch):
    """Text that is drawn from now on."""
    return record_text(monkeypatch)


def halves(left: int, right: int, size=(60, 80), dtype=np.int64) -> np.ndarray:
    labels = np.full(size, left, dtype)
    labels[:, size[1] // 2 :] = right
    return labels


def panel(picture: np.ndarray, column: int, row: int = 0) -> np.ndarray:
    top = GAP + TITLE_HEIGHT + row * (HEIGHT + GAP + TITLE_HEIGHT)
    left = GAP + column * (WIDTH + GAP)
    return picture[top : top + HEIGHT, left : left + WIDTH].astype(int)


def hue(pixel: np.ndarray) -> list[bool]:
    """Which channels a colour has put above the grey image."""
    return (pixel > 128).tolist()


def texts(written) -> list[str]:
    return [each.text for each in written]


def test_image_prediction_and_truth_stand_side_by_side(written):
    picture = draw_segmentation(IMAGE, halves(0, 1), CLASSES, PALETTE, truth=halves(0, 2))
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert (panel(picture, 0) == IMAGE[0, 0]).all()
    prediction, truth = panel(picture, 1), panel(picture, 2)
    assert hue(prediction[10, 10]) == hue(truth[10, 10]) == [True, False, False]
    assert hue(prediction[10, -10]) == [False, True, False]
    assert hue(truth[10, -10]) == [False, False, True]
    assert texts(written)[:4] == ['dog', 'cat', 'dog', 'grass']  # in the segments
    legend = ['prediction', 'truth', 'dog', '50.0 %', '50.0 %', 'cat', '–', '50.0 %']
    assert sorted(texts(written)[4:]) == sorted(
        [*legend, 'grass', '50.0 %', '–', 'input', 'prediction', 'truth']
    )


def test_groups_and_prototypes_stand_below(written):
    groups = {0: halves(3, 5, (6, 8)), 1: halves(1, 0, (6, 8))}
    prototypes = {0: halves(9, 2, (6, 8)), 1: halves(0, 1, (6, 8))}
    mask = halves(0, 1)
    without = draw_segmentation(IMAGE, mask, CLASSES)
    picture = draw_segmentation(IMAGE, mask, CLASSES, groups=groups, prototypes=prototypes)
    assert picture.shape[0] - without.shape[0] >= HEIGHT
    titles = [f'{kind}, stage {stage}' for kind in ('groups', 'prototypes') for stage in (1, 2)]
    assert [text for text in texts(written) if 'stage' in text] == titles
    for stage in (0, 1):  # a prototype has the colour of the group that it overlaps with
        assert (panel(picture, stage, 1) == panel(picture, stage + 2, 1)).all()
    assert not (panel(picture, 0, 1) == panel(picture, 1, 1)).all()


@pytest.mark.parametrize(
    ('ignored', 'dtype'), [(255, np.uint8), (1000, np.uint16), (65535, np.uint16), (-1, np.int32)]
)
def test_labels_outside_of_the_classes_stay_clear(written, ignored, dtype):
    truth = halves(3, ignored, dtype=dtype)
    picture = draw_segmentation(IMAGE, halves(0, 0), CLASSES, PALETTE, truth=truth)
    clear = panel(picture, 2)[:, -150:]
    assert (clear == IMAGE[0, 0].mean().astype(int)).all()
    assert 'no class' in texts(written)


def test_many_classes_and_a_mask_of_another_size(written):
    classes = [f'category {number}' for number in range(1203)]
    mask = np.arange(1203, dtype=np.uint16)[:171].repeat(40).reshape(171, 40) * 7
    picture = draw_segmentation(IMAGE, mask, classes, truth=mask.astype(np.int64))
    assert picture.shape[0] < 800 and picture.shape[1] < 2600
    more = [text for text in texts(written) if text.startswith('and ')]
    assert len(more) == 1
    listed = sum(text.startswith('category') for text in texts(written))
    assert listed > 20
    assert all(each.is_whole for each in written)


@pytest.mark.parametrize('size', [(1, 1), (3, 2), (20, 2000), (2000, 20), (1500, 1000)])
@pytest.mark.parametrize('truth', [False, True])
@pytest.mark.parametrize('groups', [False, True])
def test_pictures_of_any_image_are_bounded_and_nothing_is_cut(written, size, truth, groups):
    image = np.zeros((*size, 3), np.uint8)
    mask = np.arange(size[0] * size[1]).reshape(size) % 4
    maps = {0: mask, 1: mask} if groups else None
    picture = draw_segmentation(image, mask, CLASSES, None, maps, mask if truth else None, maps)
    assert min(picture.shape[:2]) > 200 and max(picture.shape[:2]) < 3200
    assert all(each.is_whole for each in written)
    assert {'input', 'prediction', *CLASSES[: size[0] * size[1]]} <= set(texts(written))


def test_names_do_not_cover_each_other(written):
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 40, (6, 8)).repeat(10, 0).repeat(10, 1)
    draw_segmentation(IMAGE, mask, [f'something {number}' for number in range(40)])
    names = [each for each in written if each.size == (WIDTH, HEIGHT)]
    assert len(names) > 10
    assert all(each.is_whole for each in names)
    for number, one in enumerate(names):
        for other in names[:number]:
            apart = (
                one.box[2] <= other.box[0]
                or other.box[2] <= one.box[0]
                or one.box[3] <= other.box[1]
                or other.box[3] <= one.box[1]
            )
            assert apart, (one, other)


def test_name_stands_in_its_segment_if_that_is_large_and_beside_it_if_small(written):
    mask = halves(2, 3)
    mask[10:12, 60:62] = 0
    draw_segmentation(IMAGE, mask, CLASSES)
    boxes = {each.text: each.box for each in written if each.size == (WIDTH, HEIGHT)}
    assert boxes['grass'][2] < WIDTH / 2 < boxes['sky'][0]
    left, top, right, bottom = boxes['dog']  # 11 x 11 pixels at (336, 56)
    assert left < 341 < right and bottom <= 58 and bottom > 40


def test_legend_lists_by_falling_area_and_sums_up_the_rest(written):
    maps = [np.array([[2, 2, 2, 1]]), np.array([[0, 0, 0, 7]])]
    shares = occurring(maps, 4)
    assert shares == {0: (0, 0.75), 2: (0.75, 0), 1: (0.25, 0), 4: (0, 0.25)}
    rows = legend_rows(shares, CLASSES, np.uint8(PALETTE))
    assert [row.name for row in rows] == ['dog', 'grass', 'cat', 'no class']
    draw_legend(rows, ['one', 'other'], height=60, free_width=0, min_columns=1)
    assert [t for t in texts(written) if '%' not in t and t != '–'] == [
        'other',
        'one',
        'dog',
        'and 3 more',
    ]
    assert texts(written).count('25.0 %') == 1  # of one map; the other has
    assert '100.0 %' in texts(written)


def test_segments_are_outlined():
    assert outlines(np.array([[0, 0, 1], [0, 0, 1]])).tolist() == [[False, True, False]] * 2
    assert not outlines(np.zeros((3, 3), int)).any()


def test_labels_are_resized_without_new_ones():
    labels = np.array([[3, 9], [700, 3]])
    assert resize_labels(labels, (4, 2)).tolist() == [[3, 9], [3, 9], [700, 3], [700, 3]]
    assert resize_labels(labels, (1, 1)).tolist() == [[3]]


def test_groups_of_a_sample():
    maps = dict(
        stage_0=torch.full((1, 4, 6), 3, dtype=torch.int16),
        stage_1=torch.zeros(1, 4, 6, dtype=torch.int16),
        prototypes_0=torch.full((1, 4, 6), 5, dtype=torch.int16),
    )
    sample = SegDataSample()
    assert groups_of(sample) == ({}, {})
    sample.set_data({'pred_groups': PixelData(**maps)})
    groups, prototypes = groups_of(sample)
    assert sorted(groups) == [0, 1] and sorted(prototypes) == [0]
    assert (prototypes[0] == np.full((4, 6), 5)).all()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(image=IMAGE[..., 0]), r'RGB array \(H, W, 3\) of uint8, got shape \(60, 80\)'),
        (dict(image=IMAGE / 255), 'of float64'),
        (dict(image=IMAGE[:0]), 'no pixel'),
        (dict(mask=halves(0, 1)[None]), r'prediction must be a map \(H, W\)'),
        (dict(mask=halves(0, 1) * 1.0), 'of float64'),
        (dict(truth=halves(0, 1)[0]), r'truth must be a map .*got shape \(80,\)'),
        (dict(groups={0: halves(0, 1)[None]}), 'groups must be a map'),
        (dict(palette=PALETTE[:2]), '4 classes need as many colours, got 2'),
    ],
)
def test_faulty_arrays_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_segmentation(**{'image': IMAGE, 'mask': halves(0, 1), 'classes': CLASSES, **arguments})
