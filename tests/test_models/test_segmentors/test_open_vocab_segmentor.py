"""Prediction by any words, whatever the head scores: rules, refinement, padded windows."""

import pytest
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from model_zoo import lively_model, tiny_model_cfg
from pgseg_mm.models import OpenVocabSegmentor, PGSegTTAModel
from pgseg_mm.models.inference import pamr as pamr_module
from pgseg_mm.models.inference.class_embedder import ClassEmbedder
from pgseg_mm.models.inference.image_geometry import whole_patches
from pgseg_mm.models.inference.pamr import PAMR
from pgseg_mm.text.vocabulary import Vocabulary

CLASSES = ['dog', 'cat', 'grass', 'sky']
SLIDE = dict(mode='slide', crop_size=32, stride=16)
WORDS = Vocabulary((('wall', 'sky'), ('dog',), ('cat', 'kitten')))
COARSE = torch.randn(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
IMAGE = 3 * COARSE.repeat_interleave(8, 2).repeat_interleave(8, 3)


@pytest.fixture(autouse=True)
def words_that_differ(monkeypatch):
    """Random weights embed all words alike; here each has a direction of its own."""

    def embed(self, words):
        seeds = [sum(map(ord, word)) for word in words]
        return torch.stack(
            [torch.randn(20, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )

    monkeypatch.setattr(ClassEmbedder, 'embed_words', embed)


def model(naming='mixture', vocabulary=CLASSES, test_cfg=SLIDE, **head):
    head = dict(tiny_model_cfg()['decode_head'], naming=naming, **head)
    made = lively_model(decode_head=head, test_cfg=test_cfg)
    made.set_vocabulary(vocabulary)
    return made


@pytest.fixture(params=['affinity', 'mixture'])
def naming(request) -> str:
    return request.param


def predict(made, image=IMAGE, **meta):
    meta.setdefault('ori_shape', (50, 61))
    return made.predict(image, [SegDataSample(metainfo=meta)])[0]


def test_a_model_that_is_not_trained_predicts_as_pgseg_does():
    ours = model()
    cfg = dict(tiny_model_cfg(), type='OpenVocabSegmentor', test_cfg=SLIDE)
    cfg['decode_head'].update(naming='mixture')
    other = MODELS.build(cfg).eval()
    assert type(other) is OpenVocabSegmentor
    other.load_state_dict(ours.state_dict())
    other.set_vocabulary(CLASSES)
    assert torch.equal(predict(ours).pred_sem_seg.data, predict(other).pred_sem_seg.data)
    with pytest.raises(RuntimeError, match='predicts only'):
        other(IMAGE, [SegDataSample()], mode='loss')
    with pytest.raises(ValueError, match='makes no groups'):
        predict(other.with_classes(CLASSES, groups=True))


def test_dense_scores_and_class_scores_of_a_mixture():
    cfg = dict(SLIDE, seg_logits=True, class_scores=True)
    out = predict(model(test_cfg=cfg))
    assert out.seg_logits.data.shape == (4, 50, 61)
    assert torch.equal(out.seg_logits.data.argmax(0), out.pred_sem_seg.data[0])
    assert out.class_scores.shape == (4,)
    assert len(out.pred_sem_seg.data.unique()) > 1


def test_several_words_decide_as_the_best_of_them(naming):
    """The softmax is over words, and class 0 has words of its own."""
    cfg = dict(SLIDE, decision=dict(logit_scale=30.0, prob_threshold=0.25), seg_logits=True)
    made = model(naming, WORDS, cfg)
    assert not made.decode_head.with_background
    out = predict(made)
    assert made.num_classes == made.out_channels == 3 and made.decode_head.num_classes == 5
    plain = model(naming, ['wall', 'sky', 'dog', 'cat', 'kitten'], dict(SLIDE, seg_logits=True))
    words = (30 * predict(plain).seg_logits.data).softmax(0)
    probs = torch.stack([words[:2].amax(0), words[2], words[3:].amax(0)])
    torch.testing.assert_close(out.seg_logits.data, probs)
    expected = probs.argmax(0).masked_fill(probs.amax(0) < 0.25, 0)
    assert torch.equal(out.pred_sem_seg.data[0], expected)
    assert len(expected.unique()) > 1


def test_a_constant_background_has_no_words(naming):
    cfg = dict(SLIDE, decision=dict(background_score=0.3))
    made = model(naming, ['background', *CLASSES], cfg)
    labels = predict(made).pred_sem_seg.data[0]
    assert made.num_classes == 5 and made.decode_head.num_classes == 4
    plain = predict(model(naming, test_cfg=dict(SLIDE, seg_logits=True))).seg_logits.data
    constant = torch.full_like(plain[:1], 0.3)
    assert torch.equal(labels, torch.cat([constant, plain]).argmax(0))
    assert len(labels.unique()) > 1
    with pytest.raises(ValueError, match="must be called 'background', got 'dog'"):
        made.set_vocabulary(CLASSES)


def test_two_rules_for_the_background_are_refused():
    with pytest.raises(ValueError, match='background_threshold=None'):
        model(test_cfg=dict(SLIDE, decision=dict()), background_threshold=0.5)


@pytest.mark.parametrize('flip', [None, 'horizontal', 'vertical'])
def test_scores_are_refined_by_the_image_at_its_own_size(naming, flip):
    settings = dict(num_iters=3, dilations=(1, 4))
    made = model(naming, test_cfg=dict(SLIDE, pamr=settings, seg_logits=True))
    image, meta = IMAGE, {}
    if flip is not None:
        image = IMAGE.flip(3 if flip == 'horizontal' else 2)
        meta = dict(flip=True, flip_direction=flip)
    out = predict(made, image, **meta)
    plain = predict(model(naming, test_cfg=dict(SLIDE, seg_logits=True)), image, **meta)
    pamr = PAMR(**settings)
    guide = F.interpolate(IMAGE, size=(50, 61), mode='bilinear', align_corners=False)[0]
    refined = pamr.refine(plain.seg_logits.data, pamr.affinity(guide))
    torch.testing.assert_close(out.seg_logits.data, refined)
    assert torch.equal(out.pred_sem_seg.data[0], out.seg_logits.data.argmax(0))
    assert not torch.equal(out.pred_sem_seg.data, plain.pred_sem_seg.data)


def refined_window(made, window, pamr):
    """Scores of a window of 30 x 30 pixels that is encoded as 32 x 32, from its quarter."""
    padded = F.pad(window, (1, 1, 1, 1))
    features, head, guide = made.extract_feat(padded), made.decode_head, padded
    if head.scores_pixels:
        maps = F.interpolate(head.dense_scores(features), size=(8, 8), mode='bilinear')[0]
    else:
        guide = window
        groups = head.assign_pixels(features, (32, 32))[0, 1:31, 1:31]
        nearest = [1, 5, 9, 13, 16, 20, 24, 28]
        maps = head.classify_groups(features)[0][groups[nearest][:, nearest]].permute(2, 0, 1)
    guide = F.interpolate(guide, size=(8, 8), mode='bilinear', align_corners=True)[0]
    maps = pamr.refine(maps, pamr.affinity(guide))
    if head.scores_pixels:
        return F.interpolate(maps[None], size=(32, 32), mode='bilinear')[0, :, 1:31, 1:31]
    return F.interpolate(maps[None], size=(30, 30), mode='bilinear')[0]


@pytest.mark.parametrize('flip', [False, True])
def test_scores_of_windows_are_refined_before_they_are_averaged(naming, flip, monkeypatch):
    monkeypatch.setattr(pamr_module, 'PIECE_ELEMENTS', 300)  # two classes at a time
    cfg = dict(mode='slide', crop_size=30, stride=15, window_divisor=8, seg_logits=True)
    settings = dict(num_iters=3, dilations=(1, 2))
    made = model(naming, test_cfg=dict(cfg, pamr=dict(settings, window_downscale=4)))
    meta = dict(flip=True, flip_direction='horizontal') if flip else {}
    found = predict(made, **meta).seg_logits.data
    total, count = torch.zeros(4, 40, 56), torch.zeros(40, 56)
    for window in made.windows((40, 56)):
        place = ..., slice(window.top, window.bottom), slice(window.left, window.right)
        total[place] += refined_window(made, IMAGE[place], PAMR(**settings))
        count[place] += 1
    mean = (total / count).flip(2) if flip else total / count
    expected = F.interpolate(mean[None], size=(50, 61), mode='bilinear')[0]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    plain = predict(model(naming, test_cfg=cfg), **meta).seg_logits.data
    assert not torch.allclose(found, plain, atol=1e-3)


def test_augmented_views_are_refined_and_decided_together(naming):
    cfg = dict(SLIDE, pamr=True, decision=dict(prob_threshold=0.3), seg_logits=True)
    made = model(naming, WORDS, cfg)
    meta = dict(ori_shape=(40, 56))
    views = dict(
        inputs=[[IMAGE[0]], [IMAGE[0].flip(2)]],
        data_samples=[
            [SegDataSample(metainfo=meta)],
            [SegDataSample(metainfo=dict(meta, flip=True, flip_direction='horizontal'))],
        ],
    )
    out = PGSegTTAModel(made).test_step(views)[0]
    assert out.seg_logits.data.shape == (3, 40, 56)
    below = out.seg_logits.data.amax(0) < 0.3
    expected = out.seg_logits.data.argmax(0).masked_fill(below, 0)
    assert torch.equal(out.pred_sem_seg.data[0], expected)


def test_windows_are_padded_to_whole_patches_and_cut_back(naming):
    """The backbone sees 40 x 40 pixels of which the middle 33 x 35 are the window."""
    cfg = dict(SLIDE, crop_size=(33, 35), window_divisor=8, seg_logits=True)
    made = model(naming, test_cfg=cfg)
    seen = []
    made.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    out = predict(made, IMAGE[:, :, :33, :35], ori_shape=(33, 35))
    assert [tuple(x.shape) for x in seen] == [(1, 3, 40, 40)]
    assert torch.equal(seen[0], F.pad(IMAGE[:, :, :33, :35], (2, 3, 3, 4)))
    plain = model(naming, test_cfg=dict(mode='whole', seg_logits=True))
    whole = predict(plain, seen[0], ori_shape=(40, 40)).seg_logits.data
    torch.testing.assert_close(out.seg_logits.data, whole[:, 3:36, 2:37])


@pytest.mark.parametrize(
    ('size', 'patch', 'least', 'expected'),
    [
        # long side 597 -> 608; the other 448 * 608 / 597 = 456.3, cut to 456, up to 464
        ((448, 597), 16, 336, (464, 608)),
        ((448, 608), 16, 336, (448, 608)),  # whole patches already
        ((320, 640), 16, 336, (320, 640)),  # ... though smaller than a window
        ((300, 641), 16, 336, (336, 656)),  # 300 * 656 / 641 = 307, up to 320, and to the window
        ((21, 9), 8, 0, (24, 16)),
    ],
)
def test_sizes_of_whole_patches_by_hand(size, patch, least, expected):
    assert whole_patches(size, patch, least) == expected
    assert whole_patches(size[::-1], patch, least) == expected[::-1]


def test_images_are_resized_to_whole_patches_and_scores_back(naming):
    """As if the pipeline had resized the image: 33 x 35 pixels become 40 x 40."""
    cfg = dict(SLIDE, crop_size=(24, 24), image_divisor='patch', seg_logits=True)
    image = IMAGE[:, :, :33, :35]
    out = predict(model(naming, test_cfg=cfg), image, ori_shape=(33, 35)).seg_logits.data
    resized = F.interpolate(image, (40, 40), mode='bilinear', align_corners=False)
    plain = dict(cfg, image_divisor=None)
    same = predict(model(naming, test_cfg=plain), resized, ori_shape=(33, 35)).seg_logits.data
    torch.testing.assert_close(out, same)
    (unsized,) = model(naming, test_cfg=cfg).predict(image, [SegDataSample()])
    torch.testing.assert_close(unsized.seg_logits.data, out)
    other = predict(model(naming, test_cfg=plain), image, ori_shape=(33, 35)).seg_logits.data
    assert not torch.equal(out, other)


def test_classes_of_a_view_have_its_rule_and_its_threshold():
    cfg = dict(SLIDE, decision=dict(logit_scale=30.0, prob_threshold=0.25))
    made = model('mixture', WORDS, cfg)
    view = made.with_classes(['background', 'dog', 'cat'], 0.9, naming='logits')
    assert (view.decision.prob_threshold, view.decode_head.naming) == (0.9, 'logits')
    assert made.with_classes(['dog', 'cat']).decision.prob_threshold is None
    assert (made.decision.prob_threshold, made.decode_head.naming) == (0.25, 'mixture')
    constant = model('mixture', test_cfg=dict(SLIDE, decision=dict(background_score=0.4)),
                     vocabulary=['background', 'dog'])  # fmt: skip
    assert constant.with_classes(['background', 'cat'], 0.2).decision.background_score == 0.2
    assert not constant.with_classes(['dog', 'cat']).skips_background


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(window_divisor=0), 'window_divisor'),
        (dict(decision=dict(threshold=1)), 'decision'),
        (dict(pamr=dict(num_iters=0)), 'pamr'),
        (dict(pamr=dict(window_downscale=0)), 'window_downscale'),
    ],
)
def test_faulty_settings_are_refused(cfg, message):
    with pytest.raises(ValueError, match=message):
        model(test_cfg=dict(SLIDE, **cfg))


def test_scores_of_patches_go_straight_to_the_original_size():
    cfg = dict(mode='whole', seg_logits=True, window_divisor=1)
    two_steps = predict(model(test_cfg=cfg)).seg_logits.data
    made = model(test_cfg=dict(cfg, resize='direct'))
    found = predict(made).seg_logits.data
    patches = made.decode_head.dense_scores(made.extract_feat(IMAGE))
    expected = F.interpolate(patches, size=(50, 61), mode='bilinear')[0]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(two_steps, expected, atol=1e-4)
    mirrored = predict(made, IMAGE.flip(3), flip=True, flip_direction='horizontal')
    plain = made.decode_head.dense_scores(made.extract_feat(IMAGE.flip(3)))
    plain = F.interpolate(plain, size=(50, 61), mode='bilinear')[0].flip(2)
    torch.testing.assert_close(mirrored.seg_logits.data, plain)


def test_what_has_no_patches_to_go_from_is_refused():
    for cfg in (dict(SLIDE, resize='direct'), dict(resize='direct', window_divisor=8)):
        with pytest.raises(ValueError, match="mode='whole' and window_divisor=None"):
            model(test_cfg=cfg)
    with pytest.raises(ValueError, match="'image' or 'direct', got 'patch'"):
        model(test_cfg=dict(resize='patch'))
    with pytest.raises(ValueError, match="set resize='image'"):
        predict(model('affinity', test_cfg=dict(resize='direct')))
    made = model(test_cfg=dict(resize='direct'))
    with pytest.raises(ValueError, match="set resize='image'"):
        made.name_groups(IMAGE, [SegDataSample()], [torch.zeros(40, 56).long()], ['logits'])
