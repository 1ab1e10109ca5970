"""Scores of words to classes, in pieces, against the softmax over everything."""

import pytest
import torch
import torch.nn.functional as F

from pgseg_mm.models.inference import score_pieces
from pgseg_mm.models.inference.decision import Decision, as_decision
from pgseg_mm.models.inference.dense_scores import join_windows
from pgseg_mm.models.inference.pamr import PAMR
from pgseg_mm.models.inference.pixel_classes import PixelRules, classify_pixels, mean_logits
from pgseg_mm.models.inference.sliding_window import Window
from pgseg_mm.models.inference.stitching import StitchedScores

WORD_CLASSES = torch.tensor([0, 0, 0, 1, 2, 2, 3])
SIZE = (30, 41)


def dense(seed=0):
    scores = 0.1 * torch.randn(7, 5, 6, generator=torch.Generator().manual_seed(seed))
    guide = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(1))
    return join_windows((24, 32), [Window(0, 0, 24, 32)], [scores])._replace(guide=guide)


def stitched(seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(5, (6, 8), generator=generator).repeat_interleave(4, 0)
    table = 0.1 * torch.randn(5, 7, generator=generator)
    return StitchedScores(table, rows.repeat_interleave(4, 1), dense().guide)


def plainly(logits, rule: Decision, classes=WORD_CLASSES):
    """SCLIP's rule as it is told: everything at once."""
    if rule.background_score is not None:
        logits = torch.cat([torch.full_like(logits[:1], rule.background_score), logits])
        classes = torch.cat([torch.tensor([0]), classes + 1])
    words = (rule.logit_scale * logits).softmax(0)
    probs = torch.stack([words[classes == k].amax(0) for k in range(int(classes.max()) + 1)])
    if rule.area_threshold is not None:
        won = F.one_hot(probs.argmax(0), len(probs)).sum((0, 1)).double()
        gone = won <= rule.area_threshold * won[1:].sum()
        gone[0] = False
        probs[gone] = 0
    labels = probs.argmax(0)
    if rule.prob_threshold is not None:
        labels[probs.amax(0) < rule.prob_threshold] = 0
    return probs, labels


RULES = [
    Decision(40.0),
    Decision(40.0, prob_threshold=0.5),
    Decision(65.0, 0.3, 0.3),
    Decision(10.0, None, 0.2),
    Decision(20.0, background_score=0.05),
    Decision(20.0, 0.4, 0.25, 0.05),
]


@pytest.mark.parametrize('elements', [1 << 20, 130], ids=['at once', 'in pieces'])
@pytest.mark.parametrize('scores', [dense, stitched])
@pytest.mark.parametrize('rule', RULES, ids=str)
def test_equals_the_softmax_over_all_words(rule, scores, elements, monkeypatch):
    monkeypatch.setattr(score_pieces, 'CPU_ELEMENTS', elements)
    views = [scores(), scores(1)]
    logits = torch.stack([view.logits(SIZE) for view in views]).mean(0)
    probs, expected = plainly(logits, rule)
    rules = PixelRules(rule, WORD_CLASSES + rule.has_constant)
    labels, means = classify_pixels(views, SIZE, rules, class_scores=True)
    assert torch.equal(labels, expected)
    assert torch.equal(classify_pixels(views, SIZE, rules)[0], expected)
    torch.testing.assert_close(mean_logits(views, SIZE, rules), probs)
    winners = probs.argmax(0)
    for k in range(len(probs)):
        won = probs.amax(0)[(winners == k) & (labels == k)]
        assert means[k].item() == pytest.approx(won.mean().item() if len(won) else 0, abs=1e-5)
    assert len(labels.unique()) > 1


def test_thresholds_and_areas_matter():
    """The rules above differ in what they do."""
    logits = dense().logits(SIZE)
    maps = [plainly(logits, rule)[1] for rule in RULES]
    assert all(not torch.equal(maps[0], other) for other in maps[1:])


@pytest.mark.parametrize('scores', [dense, stitched])
def test_a_constant_score_comes_before_the_classes(scores):
    logits = scores().logits(SIZE)
    rules = PixelRules(Decision(background_score=0.07), torch.arange(1, 8))
    expected = torch.cat([torch.full_like(logits[:1], 0.07), logits]).argmax(0)
    assert torch.equal(classify_pixels([scores()], SIZE, rules)[0], expected)
    assert 0 < (expected == 0).float().mean() < 1


def test_a_constant_may_be_all_that_is_left():
    rules = PixelRules(Decision(40.0, 0.1, 1.0, 0.0), torch.arange(1, 8))
    assert not classify_pixels([dense()], SIZE, rules)[0].any()


@pytest.mark.parametrize('elements', [1 << 20, 130], ids=['at once', 'in pieces'])
@pytest.mark.parametrize('scores', [dense, stitched])
def test_scores_are_refined_before_they_decide(scores, elements, monkeypatch):
    monkeypatch.setattr(score_pieces, 'CPU_ELEMENTS', elements)
    pamr = PAMR(2, (1, 3))
    view = scores()
    guide = F.interpolate(view.guide[None], size=SIZE, mode='bilinear', align_corners=False)[0]
    refined = pamr.refine(view.logits(SIZE), pamr.affinity(guide))
    labels, means = classify_pixels([view], SIZE, PixelRules(pamr=pamr), class_scores=True)
    assert torch.equal(labels, refined.argmax(0))
    assert not torch.equal(labels, view.logits(SIZE).argmax(0))
    best = refined.amax(0)
    assert means[3].item() == pytest.approx(best[labels == 3].mean().item(), abs=1e-6)
    rule = Decision(40.0, 0.4)
    assert torch.equal(
        classify_pixels([view], SIZE, PixelRules(rule, WORD_CLASSES, pamr))[0],
        plainly(refined, rule)[1],
    )


def test_scores_without_their_image_are_not_refined():
    with pytest.raises(ValueError, match='made without it'):
        classify_pixels([dense()._replace(guide=None)], SIZE, PixelRules(pamr=PAMR()))


def test_views_of_both_kinds_are_averaged():
    views = [dense(), stitched()]
    expected = (views[0].logits(SIZE) + views[1].logits(SIZE)) / 2
    assert torch.equal(classify_pixels(views, SIZE)[0], expected.argmax(0))
    torch.testing.assert_close(mean_logits(views, SIZE), expected)


@pytest.mark.parametrize(
    'cfg',
    [dict(logit_scale=0), dict(prob_threshold=1.5), dict(area_threshold=-1), dict(scale=4), [40]],
)
def test_faulty_rules_are_refused(cfg):
    with pytest.raises(ValueError, match='decision'):
        as_decision(cfg)
