import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from drawn_text import record_text
from model_zoo import tiny_model
from pgseg_mm.visualization import draw_segmentation_sheet
from pgseg_mm.visualization.segmentation_sheet import segment_image

CLASSES = ('apple', 'dog', 'grass', 'sand')
CREDIT = 'Pictures: nobody, CC0'


class TwoImages:
    """A data set, as far as the sheet asks for one."""

    metainfo = {'classes': CLASSES}

    def __getitem__(self, index):
        torch.manual_seed(index)
        labels = torch.full((32, 32), 2 + index)
        labels[8:16, 8:16] = index
        labels[0, 0] = 255
        sample = SegDataSample(
            gt_sem_seg=PixelData(data=labels[None]),
            metainfo={'ori_shape': (32, 32), 'img_shape': (32, 32)},
        )
        return {
            'inputs': torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8),
            'data_samples': sample,
        }


class Crowded(TwoImages):
    """All classes in one image."""

    def __getitem__(self, index):
        item = super().__getitem__(index)
        item['data_samples'].gt_sem_seg.data[0, 30, :4] = torch.arange(4)
        return item


@pytest.fixture
def model():
    return tiny_model(vocabulary=CLASSES)


@pytest.fixture
def written(monkeypatch):
    """Text that is drawn from now on."""
    return record_text(monkeypatch)


def texts(written) -> list[str]:
    return [each.text for each in written]


def test_sheet_is_written_and_grows_with_its_rows(model, tmp_path):
    one, two = tmp_path / 'new' / 'one.png', tmp_path / 'two.png'
    pixels = draw_segmentation_sheet(model, TwoImages(), [0], one)
    draw_segmentation_sheet(model, TwoImages(), [0, 1], two)
    with Image.open(one) as small, Image.open(two) as large:
        assert (np.asarray(small) == pixels).all()
        assert small.width == large.width
        assert large.height - small.height > 190


def test_sheet_names_its_columns_and_credits(model, written):
    draw_segmentation_sheet(model, TwoImages(), [0, 1], credit=CREDIT)
    columns = ['input', 'groups, stage 1', 'groups, stage 2', 'prediction', 'truth']
    titles = [text for text in texts(written) if text in columns]
    legends = ['prediction', 'truth'] * 2
    assert sorted(titles) == sorted(columns + legends)
    assert texts(written).count(CREDIT) == 1
    assert all(each.is_whole for each in written)


def test_legends_name_the_classes_that_occur(model, written):
    dataset = TwoImages()
    for index, true in ((0, {'grass', 'apple'}), (1, {'sand', 'dog'})):
        shown = segment_image(model, dataset, index)
        predicted = {CLASSES[label] for label in np.unique(shown.labels['prediction'])}
        written.clear()
        draw_segmentation_sheet(model, dataset, [index])
        assert set(texts(written)) & set(CLASSES) == true | predicted


def test_palette_colours_truth(model):
    palette = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]
    sheet = draw_segmentation_sheet(model, TwoImages(), [0], palette=palette).astype(int)
    left = 12 + 4 * (200 + 12)
    truth = sheet[24 : 24 + 200, left : left + 200]
    red, blue = truth[75, 75], truth[125, 125]
    assert red[0] > red[1] + 100 and blue[2] > blue[1] + 100
    assert len(set(truth[2, 2].tolist())) == 1  # the ignored label is clear


def test_crowded_legend_is_cut(model, written):
    draw_segmentation_sheet(model, Crowded(), [0], panel=40)
    assert len(set(texts(written)) & set(CLASSES)) == 1
    assert 'and 4 more' in texts(written)  # with the pixel that has no class


def test_legend_of_a_flat_panel_is_whole(model, written):
    draw_segmentation_sheet(model, Crowded(), [0], panel=12)
    names = [each for each in written if each.text in (*CLASSES, 'and 4 more')]
    assert len(names) > 1 and all(each.is_whole for each in names)


def test_image_comes_back_as_it_was(model):
    item = TwoImages()[0]['inputs']
    shown = segment_image(model, TwoImages(), 0)
    image = item.flip(0) if model.data_preprocessor.bgr_to_rgb else item
    assert (shown.image == image.permute(1, 2, 0).numpy()).all()
    assert shown.groups[0].max() < 6
    assert shown.groups[1].max() < 3


def test_mode_of_the_model_is_kept(model):
    segment_image(model.train(), TwoImages(), 0)
    assert model.training


def test_nothing_to_draw_is_refused(model):
    with pytest.raises(ValueError, match='at least one image'):
        draw_segmentation_sheet(model, TwoImages(), [])


def test_short_palette_is_refused(model):
    with pytest.raises(ValueError, match='4 classes need as many colours, got 1'):
        draw_segmentation_sheet(model, TwoImages(), [0], palette=[[0, 0, 0]])
