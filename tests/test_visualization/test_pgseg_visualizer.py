import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmengine.visualization import Visualizer
from mmseg.registry import VISUALIZERS
from mmseg.structures import SegDataSample
from PIL import Image

from drawn_text import record_text

CLASSES = ('dog', 'cat')
IMAGE = np.full((60, 80, 3), 120, np.uint8)


@pytest.fixture
def visualizer(tmp_path):
    visualizer = VISUALIZERS.build(
        dict(
            type='PGSegVisualizer',
            name=tmp_path.name,
            save_dir=str(tmp_path),
            vis_backends=[dict(type='LocalVisBackend')],
        )
    )
    visualizer.dataset_meta = dict(classes=CLASSES, palette=[[255, 0, 0], [0, 0, 255]])
    return visualizer


def sample(**meta) -> SegDataSample:
    label = PixelData(data=torch.arange(2).repeat_interleave(40).expand(1, 60, 80))
    return SegDataSample(gt_sem_seg=label, pred_sem_seg=label, metainfo=meta)


def pictures(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob('*.png'))


def test_is_the_visualizer_that_mmsegs_hook_finds(visualizer):
    assert Visualizer.get_current_instance() is visualizer


def test_pictures_are_named_by_folder_and_file(visualizer, tmp_path):
    for folder in ('frankfurt', 'ulm'):
        path = f'/data/{folder}/a.b.png'
        visualizer.add_datasample('test_a.b.png', IMAGE, sample(img_path=path), step=7)
    visualizer.add_datasample('a.jpg', IMAGE, sample(img_path='a.jpg'))
    visualizer.add_datasample('other', IMAGE, sample(img_path='/data/ulm/a.jpg'))
    visualizer.add_datasample('array', IMAGE, sample())
    assert pictures(tmp_path) == [
        'a_0.png',
        'array_0.png',
        'other_0.png',
        'test_frankfurt_a.b_7.png',
        'test_ulm_a.b_7.png',
    ]


@pytest.mark.parametrize(
    ('options', 'titles'),
    [
        ({}, ['input', 'prediction', 'truth']),
        (dict(draw_gt=False), ['input', 'prediction']),
        (dict(draw_pred=False), ['input', 'truth']),
    ],
)
def test_draws_what_it_is_told_to(visualizer, tmp_path, monkeypatch, options, titles):
    written = record_text(monkeypatch)
    visualizer.add_datasample('x', IMAGE, sample(), out_file=str(tmp_path / 'o.png'), **options)
    texts = [each.text for each in written]
    assert [title for title in ('input', 'prediction', 'truth') if title in texts] == titles
    with Image.open(tmp_path / 'o.png') as picture:
        red = np.asarray(picture).astype(int)[200, 12 + 448 + 12 + 30]
    assert red[0] > red[2] + 100  # RGB on disk, too
    assert (visualizer._image == np.asarray(Image.open(tmp_path / 'o.png'))).all()


def test_names_may_be_left_out(visualizer, monkeypatch):
    written = record_text(monkeypatch)
    counts = []
    for with_labels in (True, False):
        written.clear()
        visualizer.add_datasample('x', IMAGE, sample(), with_labels=with_labels)
        counts.append(sum(each.text == 'dog' for each in written))
    assert counts == [3, 1]  # two maps and the legend


def test_opacity_is_mmsegs_alpha(visualizer, tmp_path):
    visualizer.alpha = 1.0
    visualizer.add_datasample('x', IMAGE, sample(), out_file=str(tmp_path / 'o.png'))
    picture = np.asarray(Image.open(tmp_path / 'o.png'))
    assert picture[60, 12 + 448 + 12 + 30].tolist() == [255, 0, 0]


def test_image_without_labels_is_left_as_it_is(visualizer, tmp_path):
    visualizer.add_datasample('x', IMAGE, out_file=str(tmp_path / 'o.png'))
    assert (np.asarray(Image.open(tmp_path / 'o.png')) == IMAGE).all()


def test_pictures_are_shown_and_kept(visualizer, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(visualizer, 'show', lambda image, **options: shown.append(options))
    visualizer.add_datasample('x', IMAGE, sample(), show=True, wait_time=3)
    assert shown == [dict(win_name='x', wait_time=3)]
    assert pictures(tmp_path) == ['x_0.png']
