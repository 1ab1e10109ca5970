"""Naming rules: affinity is in test_pgseg_head.py, here are the others."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.registry import MODELS

from model_zoo import lively_model, tiny_model_cfg
from pgseg_mm.models import GroupFeatures, PGSegHead

TOKENS = torch.eye(4)[[0, 1, 3]][None]
ASSIGNMENT = torch.tensor([[[0.7, 0.2, 0.0, 0.1], [0.1, 0.8, 0.0, 0.1], [0.2, 0.0, 1.0, 0.8]]])
LOGITS = torch.eye(3)[[0, 1]].tolist() + [[0.0, 0.0, 0.0]]


def head(**kwargs) -> PGSegHead:
    """A head that hands group tokens through, at scale 1, and knows three classes."""
    torch.manual_seed(0)
    kwargs.setdefault('class_embeds', torch.eye(4)[:3])
    module = PGSegHead(
        in_channels=4,
        channels=4,
        hidden_channels=None,
        top_classes=1,
        loss_contrastive=dict(type='ImageTextContrastiveLoss', temperature=1),
        **kwargs,
    )
    return module.eval()


def features() -> GroupFeatures:
    return GroupFeatures(TOKENS, (ASSIGNMENT,), (), (), (2, 2))


def test_logits_do_not_ask_the_image():
    own = head(naming='logits')
    torch.testing.assert_close(own.classify_groups(features())[0], torch.tensor(LOGITS).softmax(-1))
    assert not own.scores_pixels
    assert head().classify_groups(features())[0, :, 1:].count_nonzero() == 0  # one is admitted


def test_a_mixture_weighs_the_groups_of_a_patch():
    module = head(naming='mixture')
    assert module.scores_pixels
    mixed = module.dense_scores(features())
    assert mixed.shape == (1, 3, 2, 2)
    names = torch.tensor(LOGITS).softmax(-1)
    for patch in range(4):
        expected = sum(ASSIGNMENT[0, g, patch] * names[g] for g in range(3))
        torch.testing.assert_close(mixed[0].flatten(1)[:, patch], expected)


def test_a_class_scores_as_its_best_word_in_a_mixture():
    module = head(naming='mixture')
    module.set_class_embeds(torch.eye(4)[:3], class_index=[0, 0, 1])
    mixed = module.dense_scores(
        GroupFeatures(TOKENS[:, 1:2], (torch.ones(1, 1, 4),), (), (), (2, 2))
    )
    expected = torch.tensor([1.0, 0.0]).softmax(0)
    torch.testing.assert_close(mixed[0, :, 0, 0], expected)


@pytest.mark.parametrize(
    ('naming', 'limit'), [('logits', [0, 0, 1]), ('mixture', [[0, 0], [1, 1]])]
)
def test_background_is_what_is_less_sure_than_threshold_and_window(naming, limit):
    """At 0.99 the window's largest score is the limit, at 1e-3 nothing is background."""
    module = head(naming=naming, background_threshold=0.4)
    scored = module.dense_scores if module.scores_pixels else module.classify_groups
    scores = scored(features()).movedim(1, -1) if module.scores_pixels else scored(features())
    assert scores.shape[-1] == module.num_classes == 4
    assert scores[0, ..., 0].tolist() == limit
    several = scored(features(), thresholds=[1e-3, 0.99])
    several = several.movedim(1, -1) if module.scores_pixels else several
    assert several[..., 0].count_nonzero() == 0
    best = several[..., 2:].amax(-1)
    assert torch.equal(several[..., 1] == 1, best < best.max())
    assert 0 < several[..., 1].mean() < 1


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'affinity', 'logits', 'mixture', got 'best'"):
        head(naming='best')


@pytest.mark.parametrize('mode', ['whole', 'slide'])
@pytest.mark.parametrize('naming', ['affinity', 'logits', 'mixture'])
def test_rules_in_mmsegs_encoder_decoder_are_those_of_pgseg(naming, mode):
    cfg = tiny_model_cfg()
    embeds = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    cfg['decode_head'].update(naming=naming, class_embeds=embeds)
    settings = dict(mode=mode, crop_size=(32, 32), stride=(16, 16), seg_logits=True)
    ours = lively_model(decode_head=cfg['decode_head'], test_cfg=settings)
    theirs = MODELS.build(
        ConfigDict(
            type='EncoderDecoder',
            backbone=cfg['backbone'],
            decode_head=cfg['decode_head'],
            test_cfg=settings,
        )
    ).eval()
    theirs.backbone.load_state_dict(ours.backbone.state_dict())
    theirs.decode_head.load_state_dict(ours.decode_head.state_dict())
    image = torch.rand(1, 3, 40, 56) * 4
    with torch.no_grad():
        one, other = (m.predict(image)[0].seg_logits.data for m in (ours, theirs))
    torch.testing.assert_close(one, other)
    assert one.flatten(1).std(1).max() > 0
