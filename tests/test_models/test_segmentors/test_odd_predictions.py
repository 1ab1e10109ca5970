"""Images, classes and thresholds at their limits, for patches of a CLIP under every rule."""

import json

import pytest
import torch
from mmseg.structures import SegDataSample

from pgseg_mm.models import OpenVocabSegmentor
from pgseg_mm.models.inference.class_embedder import ClassEmbedder
from pgseg_mm.models.inference.score_pieces import ScorePieces
from pgseg_mm.text.vocabulary import Vocabulary
from tiny_open_clip import CLIP, VISION

SLIDE = dict(mode='slide', crop_size=32, stride=16)
DECIDES = dict(decision=dict(logit_scale=40.0, prob_threshold=0.4, area_threshold=0.1))
SETTINGS = {
    'windows': SLIDE,
    'whole': dict(mode='whole'),
    'straight': dict(mode='whole', resize='direct'),
    'padded': dict(SLIDE, window_divisor=16),
    'decided': dict(SLIDE, **DECIDES),
    'refined': dict(SLIDE, pamr=dict(num_iters=2, dilations=(1, 40))),
    'all of it': dict(SLIDE, window_divisor=8, pamr=True, **DECIDES),
    'constant': dict(SLIDE, decision=dict(background_score=0.1)),
}
WORDS = Vocabulary((('background', 'wall', 'sky'), ('dog',), ('cat', 'kitten'), ('grass',)))
SIZES = [(1, 1), (1, 70), (7, 9), (8, 8), (33, 15), (40, 57)]


@pytest.fixture(scope='module')
def clip(tmp_path_factory) -> OpenVocabSegmentor:
    folder = tmp_path_factory.mktemp('clip')
    vision = {**VISION, 'patch_size': 8, 'layers': 2}
    config = {'embed_dim': 24, 'vision_cfg': vision, 'text_cfg': CLIP}
    (folder / 'open_clip_config.json').write_text(json.dumps({'model_cfg': config}))
    name = f'local-dir:{folder}'
    torch.manual_seed(0)
    return OpenVocabSegmentor(
        dict(type='CLIPDenseViT', model_name=name, attention='naclip'),
        dict(type='OpenCLIPTextEncoder', model_name=name),
        dict(type='DenseCLIPHead', in_channels=24),
    ).eval()


@pytest.fixture(autouse=True)
def words_that_differ(monkeypatch):
    """Random weights embed all words alike; here each has a direction of its own."""

    def embed(self, words):
        seeds = [sum(map(ord, word)) for word in words]
        return torch.stack(
            [torch.randn(24, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )

    monkeypatch.setattr(ClassEmbedder, 'embed_words', embed)


def ruled(clip, vocabulary=WORDS, threshold=0.4, **test_cfg) -> OpenVocabSegmentor:
    if test_cfg.get('decision', {}).get('background_score'):
        threshold = 0.1
    elif 'decision' not in test_cfg:
        threshold = None
    return clip.with_classes(vocabulary, threshold, **test_cfg)


def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(3, *size, generator=generator) for size in SIZES]


@pytest.mark.parametrize('name', SETTINGS)
@torch.no_grad()
def test_images_of_any_size_side_by_side(clip, name):
    """Each is segmented in a batch as it is alone, at its own size or another."""
    made = ruled(clip, **SETTINGS[name], seg_logits=True, class_scores=True)
    shapes = [None, (3, 200), (1, 1), None, (50, 20), (91, 40)]
    metas = [{} if shape is None else dict(ori_shape=shape) for shape in shapes]
    together = made.predict(images(), [SegDataSample(metainfo=dict(meta)) for meta in metas])
    for image, meta, size, found in zip(images(), metas, SIZES, together, strict=True):
        alone = made.predict([image], [SegDataSample(metainfo=dict(meta))])[0]
        labels, scores = found.pred_sem_seg.data, found.seg_logits.data
        assert labels.shape == (1, *meta.get('ori_shape', size))
        assert scores.isfinite().all() and len(scores) == 4 and found.class_scores.isfinite().all()
        assert labels.min() >= 0 and labels.max() < 4
        torch.testing.assert_close(scores, alone.seg_logits.data, atol=1e-5, rtol=1e-4)
        assert (labels != alone.pred_sem_seg.data).float().mean() < 0.02


@pytest.mark.parametrize('name', SETTINGS)
@pytest.mark.parametrize('flip', ['horizontal', 'vertical', 'diagonal'])
@torch.no_grad()
def test_flips_are_undone_at_any_size(clip, name, flip):
    made = ruled(clip, **SETTINGS[name])
    axes = {'horizontal': [2], 'vertical': [1], 'diagonal': [1, 2]}[flip]
    meta = dict(flip=True, flip_direction=flip)
    for image in (images()[0], images()[-1]):
        plain = made.predict([image], [SegDataSample()])[0].pred_sem_seg.data
        undone = made.predict([image], [SegDataSample(metainfo=meta)])[0].pred_sem_seg.data
        assert torch.equal(undone.flip(axes), plain)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_values_that_are_none_are_refused(clip, value):
    faulty = images()
    faulty[4][1, 2, 3] = value
    with pytest.raises(ValueError, match='NaN or infinite values in image 4 of the batch'):
        ruled(clip, **SETTINGS['all of it']).predict(faulty)


@torch.no_grad()
def test_a_single_class_takes_all(clip):
    for name in ('windows', 'decided', 'all of it'):
        for words in (['dog'], ['background']):
            made = ruled(clip, Vocabulary.from_names(words), **SETTINGS[name])
            assert not made.predict(images())[-1].pred_sem_seg.data.any()
    with pytest.raises(ValueError, match='nothing but the background'):
        ruled(clip, Vocabulary.from_names(['background']), **SETTINGS['constant'])


@torch.no_grad()
def test_thresholds_at_their_limits(clip):
    image = images()[-1:]
    plain = ruled(clip, **SLIDE, decision=dict(logit_scale=40.0), threshold=None)
    best = plain.predict(image)[0].pred_sem_seg.data
    assert len(best.unique()) > 1

    def labels(**decision) -> torch.Tensor:
        made = ruled(clip, **SLIDE)
        made.test_cfg['decision'] = dict(logit_scale=40.0, **decision)
        made.set_vocabulary(WORDS)
        return made.predict(image)[0].pred_sem_seg.data

    assert torch.equal(labels(prob_threshold=0), best)
    assert torch.equal(labels(area_threshold=0), best)  # classes without a pixel lose none
    assert not labels(prob_threshold=1).any()
    assert not labels(area_threshold=1).any()
    assert not labels(prob_threshold=1, area_threshold=1).any()


def test_classes_that_win_nothing_cost_no_second_look(clip, monkeypatch):
    """The area rule decides again only where a pixel has lost its class."""
    looked = []
    bands = ScorePieces.bands
    monkeypatch.setattr(
        ScorePieces, 'bands', lambda self, *args: looked.append(args) or bands(self, *args)
    )
    for threshold, times in ((0.0, 1), (1.0, 2)):
        made = ruled(clip, **SLIDE, decision=dict(area_threshold=threshold), threshold=None)
        with torch.no_grad():
            made.predict(images()[-1:])
        assert len(looked) == times
        looked.clear()


def test_a_refinement_by_an_image_in_half_precision(clip):
    """Flat parts of it have no deviation, which half precision takes for nothing at all."""
    made = ruled(clip, **SETTINGS['refined'], seg_logits=True)
    image = torch.zeros(1, 3, 40, 57)
    image[..., 30:] = 1
    with torch.no_grad():
        scores = made.segment(image, [SegDataSample()])[0]
    expected, halved = SegDataSample(), SegDataSample()
    made.fill_sample(expected, [scores])
    made.fill_sample(halved, [scores._replace(guide=scores.guide.half())])
    torch.testing.assert_close(halved.seg_logits.data, expected.seg_logits.data)


@pytest.mark.parametrize(
    'rule',
    [
        dict(logit_scale=float('inf')),
        dict(logit_scale='40'),
        dict(logit_scale=None),
        dict(prob_threshold=float('nan')),
        dict(background_score=float('nan')),
    ],
)
def test_rules_without_a_number_are_refused(clip, rule):
    with pytest.raises(ValueError, match='must be a finite number'):
        OpenVocabSegmentor.with_classes(clip, WORDS, decision=rule)
