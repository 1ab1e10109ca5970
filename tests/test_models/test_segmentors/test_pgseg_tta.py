"""Test-time augmentation: the mean of the scores of several views."""

import pytest
import torch
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.models import PGSegTTAModel
from pgseg_mm.models.inference.stitching import StitchedScores

CLASSES = ['dog', 'cat', 'grass', 'sky']
SIZES = [(40, 56), (48, 33)]
"""Original sizes of the images of a batch."""
SLIDE = dict(mode='slide', crop_size=32, stride=16, seg_logits=True)


def view(scale: float = 1.0, flip: str | None = None) -> dict:
    """A batch of images of several sizes, scaled and flipped, as mmcv's transforms leave them."""
    inputs, samples = [], []
    for number, size in enumerate(SIZES):
        image = torch.rand(3, *size, generator=torch.Generator().manual_seed(number)) * 255
        scaled = tuple(round(side * scale) for side in size)
        image = nn.functional.interpolate(image[None], size=scaled, mode='bilinear')[0]
        meta = dict(ori_shape=size, img_shape=scaled, flip=flip is not None, flip_direction=flip)
        if flip is not None:
            image = image.flip({'horizontal': 2, 'vertical': 1, 'diagonal': (1, 2)}[flip])
        inputs.append(image)
        samples.append(SegDataSample(metainfo=meta))
    return dict(inputs=inputs, data_samples=samples)


def together(*views: dict) -> dict:
    return {key: [each[key] for each in views] for key in ('inputs', 'data_samples')}


@pytest.fixture(
    params=[(None, 'affinity'), (0.5, 'affinity'), (0.5, 'mixture')],
    ids=['no background', 'background', 'mixture'],
)
def model(request):
    threshold, naming = request.param
    head = dict(tiny_model_cfg()['decode_head'], background_threshold=threshold, naming=naming)
    classes = CLASSES if threshold is None else ['background', *CLASSES]
    return tiny_model(decode_head=head, vocabulary=classes, test_cfg=SLIDE)


def test_one_plain_view_is_the_plain_prediction(model):
    plain = model.test_step(view())
    augmented = PGSegTTAModel(model).test_step(together(view()))
    for one, other in zip(plain, augmented, strict=True):
        assert torch.equal(one.pred_sem_seg.data, other.pred_sem_seg.data)
        assert torch.equal(one.seg_logits.data, other.seg_logits.data)


@pytest.mark.parametrize(
    'views',
    [
        [dict(), dict(flip='horizontal')],
        [dict(scale=1.3), dict(scale=0.9, flip='vertical'), dict(flip='diagonal')],
    ],
)
def test_views_are_averaged_at_the_original_size(model, views):
    alone = zip(*(model.test_step(view(**each)) for each in views), strict=True)
    averaged = PGSegTTAModel(model).test_step(together(*(view(**each) for each in views)))
    for samples, sample, size in zip(alone, averaged, SIZES, strict=True):
        mean = torch.stack([each.seg_logits.data for each in samples]).mean(0)
        torch.testing.assert_close(sample.seg_logits.data, mean)
        assert sample.pred_sem_seg.data.shape == (1, *size)
        best = mean.gather(0, sample.pred_sem_seg.data)
        torch.testing.assert_close(best, mean.amax(0, keepdim=True))  # ties are rounded either way
        assert (sample.pred_sem_seg.data[0] == mean.argmax(0)).float().mean() > 0.999


@pytest.mark.parametrize(
    ('flip', 'axes'), [('horizontal', [2]), ('vertical', [1]), ('diagonal', [1, 2])]
)
def test_flips_are_undone(model, flip, axes):
    unaware = view(flip=flip)
    for sample in unaware['data_samples']:
        sample.set_metainfo(dict(flip=False))
    undone = PGSegTTAModel(model).test_step(together(view(flip=flip)))
    for one, other in zip(undone, model.test_step(unaware), strict=True):
        assert torch.equal(one.pred_sem_seg.data, other.pred_sem_seg.data.flip(axes))


def test_no_dense_scores_are_made_unless_they_are_asked_for(model, monkeypatch):
    model.test_cfg['seg_logits'] = False
    monkeypatch.setattr(StitchedScores, 'logits', lambda *_: pytest.fail('dense scores'))
    (sample, _) = PGSegTTAModel(model).test_step(together(view(), view(scale=1.5)))
    assert set(sample.keys()) == {'pred_sem_seg'}


def test_groups_are_those_of_the_first_view(model):
    model.test_cfg['groups'] = True
    views = [view(scale=1.2, flip='horizontal'), view()]
    expected = model.test_step(view(scale=1.2, flip='horizontal'))
    for one, other in zip(PGSegTTAModel(model).test_step(together(*views)), expected, strict=True):
        assert set(one.pred_groups.keys()) == set(other.pred_groups.keys())
        assert all(map(torch.equal, one.pred_groups.values(), other.pred_groups.values()))


def test_is_built_from_a_config_and_knows_its_vocabulary():
    model = MODELS.build(dict(type='PGSegTTAModel', module=tiny_model_cfg()))
    model.set_vocabulary(CLASSES)
    assert model.module.num_classes == 4
    assert model.module.decode_head.num_classes == 0  # embedded at the first prediction
    model.eval().test_step(together(view()))
    assert model.module.num_classes == 4


def test_classes_score_where_they_win_in_the_mean_of_the_views(model):
    model.test_cfg.update(class_scores=True)
    for sample in PGSegTTAModel(model).test_step(together(view(), view(flip='horizontal'))):
        scores, labels = sample.seg_logits.data, sample.pred_sem_seg.data[0]
        for number, found in enumerate(sample.class_scores):
            won = labels == number
            expected = scores[number][won].mean() if won.any() else torch.zeros(())
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_pixels_are_prepared_as_it_is_told():
    other = dict(type='PGSegDataPreProcessor', mean=[9.0] * 3, std=[2.0] * 3)
    for module in (tiny_model(), tiny_model_cfg()):
        assert PGSegTTAModel(module, other).module.data_preprocessor.mean.unique().item() == 9
    own = tiny_model()
    assert PGSegTTAModel(own).module.data_preprocessor is own.data_preprocessor


def test_refuses_another_model():
    class Other(nn.Module):
        def test_step(self, data):
            return data

    with pytest.raises(TypeError, match="PGSeg, got Other; use mmseg's SegTTAModel"):
        PGSegTTAModel(Other())
