import numpy as np
import pytest
import torch
from matplotlib.text import Text
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from model_zoo import tiny_model
from pgseg_mm.visualization import draw_segmentation_sheet
from pgseg_mm.visualization.segmentation_sheet import qualitative_colours, segment_image

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


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def legend_names(figure, column, row, columns=7):
    legend = figure.axes[row * columns + column].get_legend()
    return [text.get_text() for text in legend.get_texts()]


def test_sheet_is_written_and_grows_with_its_rows(model, tmp_path):
    one, two = tmp_path / 'new' / 'one.png', tmp_path / 'two.png'
    draw_segmentation_sheet(model, TwoImages(), [0], one)
    draw_segmentation_sheet(model, TwoImages(), [0, 1], two)
    with Image.open(one) as small, Image.open(two) as large:
        assert small.width == large.width
        assert large.height - small.height > 190


def test_sheet_names_its_columns_and_credits(model):
    figure = draw_segmentation_sheet(model, TwoImages(), [0, 1], credit=CREDIT)
    texts = texts_of(figure)
    titles = ('input', 'groups of stage 1', 'groups of stage 2', 'prediction', 'truth')
    assert all(texts.count(title) == 1 for title in titles)
    assert texts.count(CREDIT) == 1


def test_legends_name_the_classes_that_occur(model):
    dataset = TwoImages()
    figure = draw_segmentation_sheet(model, dataset, [0, 1])
    assert legend_names(figure, column=6, row=0) == ['grass', 'apple']
    assert legend_names(figure, column=6, row=1) == ['sand', 'dog']
    predicted = {CLASSES[label] for label in np.unique(segment_image(model, dataset, 1).prediction)}
    assert set(legend_names(figure, column=4, row=1)) == predicted


def test_palette_colours_truth(model):
    palette = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]
    figure = draw_segmentation_sheet(model, TwoImages(), [0], palette=palette)
    overlay = figure.axes[5].get_images()[1].get_array()
    assert overlay[10, 10, :3].tolist() == [1, 0, 0]
    assert overlay[20, 20, :3].tolist() == [0, 0, 1]
    assert overlay[0, 0, 3] == 0  # the ignored label


def test_crowded_legend_is_cut(model):
    figure = draw_segmentation_sheet(model, Crowded(), [0], panel=0.4)
    assert legend_names(figure, column=6, row=0) == ['grass', 'and 3 more']


def test_image_comes_back_as_it_was(model):
    item = TwoImages()[0]['inputs']
    shown = segment_image(model, TwoImages(), 0)
    image = item.flip(0) if model.data_preprocessor.bgr_to_rgb else item
    np.testing.assert_allclose(shown.image, image.permute(1, 2, 0) / 255, atol=1e-5)
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


def test_colours_differ_and_repeat():
    colours = qualitative_colours(70)
    assert colours.shape == (70, 3)
    assert len(np.unique(colours[:20], axis=0)) == 20
    assert (colours[60:] == colours[:10]).all()
