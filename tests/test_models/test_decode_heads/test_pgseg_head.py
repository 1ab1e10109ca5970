import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from model_zoo import tiny_model_cfg
from pgseg_mm.models import GroupFeatures, PGSegHead


def head(**kwargs) -> PGSegHead:
    torch.manual_seed(0)
    return PGSegHead(**{'in_channels': 4, 'channels': 4, 'hidden_channels': 8, **kwargs}).eval()


def identity_head(**kwargs) -> PGSegHead:
    """A head whose projector hands group tokens through, at scale 1."""
    module = head(loss_contrastive=dict(type='ImageTextContrastiveLoss', temperature=1), **kwargs)
    module.image_projector = torch.nn.Identity()
    return module


def features(tokens: torch.Tensor, assignment: torch.Tensor, grid=(2, 2)) -> GroupFeatures:
    return GroupFeatures(tokens, (assignment,), (), (), grid)


def test_affinity_by_hand():
    """Two groups, three classes; only the image's two best classes are admitted."""
    module = identity_head(top_classes=2, class_embeds=torch.eye(4)[:3])
    tokens = torch.eye(4)[[0, 1]][None]
    affinity = module.classify_groups(features(tokens, torch.ones(1, 2, 4) / 2))
    logits = torch.eye(3)[:2]
    narrowed = torch.tensor([[1.0, 0, -torch.inf], [0, 1, -torch.inf]])
    torch.testing.assert_close(affinity[0], logits.softmax(-1) * narrowed.softmax(-1))


@pytest.mark.parametrize(('threshold', 'expected'), [(0.95, [0.0, 1.0]), (1e-3, [0.0, 0.0])])
def test_background_where_no_class_is_sure(threshold, expected):
    """The limit is the largest affinity of the window if that is below the threshold."""
    module = identity_head(class_embeds=torch.eye(4)[:3], background_threshold=threshold)
    tokens = torch.stack([torch.tensor([1.0, 0, 0, 0]), torch.ones(4)])[None]
    affinity = module.classify_groups(features(tokens, torch.ones(1, 2, 4) / 2))
    assert affinity.shape == (1, 2, 4) and module.num_classes == 4
    assert affinity[0, :, 0].tolist() == expected


def test_a_class_scores_as_its_best_word():
    module = identity_head()
    module.set_class_embeds(torch.eye(4)[:3], class_index=[0, 0, 1])
    tokens = torch.eye(4)[[1]][None]
    affinity = module.classify_groups(features(tokens, torch.ones(1, 1, 4)))
    logits = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(affinity[0, 0], logits.softmax(0) ** 2)


@pytest.mark.parametrize('index', [[1, 0, 2], [2, 0, 1], [1, 0, 1]])
def test_words_may_come_in_any_order(index):
    module, ordered = identity_head(), identity_head()
    module.set_class_embeds(torch.eye(4)[:3], class_index=index)
    rows = sorted(range(3), key=lambda row: index[row])
    ordered.set_class_embeds(torch.eye(4)[rows], class_index=sorted(index))
    groups = features(torch.rand(1, 2, 4), torch.ones(1, 2, 4) / 2)
    assert torch.equal(module.classify_groups(groups), ordered.classify_groups(groups))


def test_half_precision_is_compared_in_float32():
    """So that two of many classes do not tie."""
    module = identity_head(class_embeds=torch.rand(50, 4))
    groups = features(torch.rand(1, 2, 4).bfloat16().float(), torch.ones(1, 2, 4) / 2)
    expected = module.classify_groups(groups)
    with torch.autocast('cpu', torch.bfloat16):
        scores = module.classify_groups(groups)
    assert scores.dtype == torch.float32 and torch.equal(scores, expected)


def test_each_pixel_takes_its_most_likely_group():
    assignment = torch.tensor([[[0.9, 0.2, 0.6, 0.1], [0.1, 0.8, 0.4, 0.9]]])
    groups = head().assign_pixels(features(torch.rand(1, 2, 4), assignment), (2, 2))
    assert groups.tolist() == [[[0, 1], [0, 1]]]
    assert head().assign_pixels(features(torch.rand(1, 2, 4), assignment), (8, 6)).shape == (
        1,
        8,
        6,
    )


def encoder_decoder(test_cfg=None, **head_kwargs):
    cfg = tiny_model_cfg()
    decode_head = cfg['decode_head']
    decode_head.update(text_channels=None, loss_npr=None, **head_kwargs)
    torch.manual_seed(0)
    return MODELS.build(
        ConfigDict(
            type='EncoderDecoder',
            backbone=cfg['backbone'],
            decode_head=decode_head,
            train_cfg={},
            test_cfg=test_cfg or {'mode': 'whole'},
        )
    )


@pytest.mark.parametrize('suffix', ['tensor', '.npy', '.pt'])
def test_in_mmsegs_encoder_decoder_with_given_class_embeddings(suffix, tmp_path):
    embeds = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    source = embeds if suffix == 'tensor' else str(tmp_path / f'classes{suffix}')
    if suffix == '.npy':
        np.save(source, embeds.numpy())
    elif suffix == '.pt':
        torch.save(embeds, source)
    model = encoder_decoder(class_embeds=source).eval()
    meta = dict(ori_shape=(40, 48), img_shape=(32, 32), pad_shape=(32, 32))
    out = model.predict(torch.rand(1, 3, 32, 32), [SegDataSample(metainfo=meta)])
    assert out[0].pred_sem_seg.data.shape == (1, 40, 48)
    assert out[0].seg_logits.data.shape[0] == model.num_classes == 6


def test_sliding_windows_of_mmseg():
    model = encoder_decoder(
        class_embeds=torch.randn(3, 20),
        test_cfg={'mode': 'slide', 'crop_size': (32, 32), 'stride': (16, 16)},
    ).eval()
    out = model.predict(torch.rand(1, 3, 32, 48))
    assert out[0].pred_sem_seg.data.shape == (1, 32, 48)


def test_one_class_in_mmsegs_encoder_decoder_is_class_0():
    model = encoder_decoder(class_embeds=torch.randn(1, 20)).eval()
    assert not model.predict(torch.rand(1, 3, 32, 32))[0].pred_sem_seg.data.any()


def test_supervised_fine_tuning_through_mmseg():
    model = encoder_decoder(class_embeds=torch.randn(5, 20)).train()
    labels = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(5, (1, 32, 32))))
    losses = model.loss(torch.rand(2, 3, 32, 32), [labels, labels])
    losses['decode.loss_ce'].backward()
    assert model.backbone.patch_embed.weight.grad.abs().sum() > 0


def test_supervised_training_refuses_a_background_by_threshold():
    model = encoder_decoder(class_embeds=torch.randn(5, 20), background_threshold=0.5)
    with pytest.raises(ValueError, match='background_threshold=None'):
        model.loss(torch.rand(2, 3, 32, 32), [])


def test_refuses_feature_maps():
    with pytest.raises(TypeError, match="out_type='groups'"):
        head(class_embeds=torch.eye(4)).classify_groups((torch.rand(1, 4, 2, 2),))


def test_refuses_an_npr_loss_with_prototypes_of_its_own():
    own = dict(type='NonLearnablePrototypes', num_prototypes=2, embed_dims=4)
    with pytest.raises(ValueError, match='those of the backbone'):
        head(loss_npr=dict(type='NPRLoss', prototypes=own))


def test_refuses_npr_without_prototypes():
    module = head(text_channels=6, loss_npr=dict(type='NPRLoss')).train()
    text = type('Text', (), dict(eot=torch.randn(2, 6)))()
    with pytest.raises(ValueError, match='prototypes'):
        module.loss_image_text(features(torch.randn(2, 3, 4), torch.rand(2, 3, 4)), text)


@pytest.mark.parametrize(
    ('embeds', 'message'),
    [(torch.randn(3, 5), r'\(classes, 4\)'), (torch.randn(3), 'matrix')],
)
def test_refuses_class_embeddings_of_another_width(embeds, message):
    with pytest.raises(ValueError, match=message):
        head(class_embeds=embeds)


def test_refuses_a_missing_or_foreign_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='do not exist'):
        head(class_embeds=str(tmp_path / 'none.npy'))
    (tmp_path / 'classes.csv').write_text('1,2')
    with pytest.raises(ValueError, match=r'\.npy'):
        head(class_embeds=str(tmp_path / 'classes.csv'))


def test_refuses_to_classify_without_classes():
    with pytest.raises(RuntimeError, match='no classes'):
        head()(features(torch.randn(1, 3, 4), torch.rand(1, 3, 4)))


@pytest.mark.parametrize('kwargs', [dict(top_classes=0), dict(background_threshold=0)])
def test_refuses_impossible_settings(kwargs):
    with pytest.raises(ValueError, match='must be'):
        head(**kwargs)


@pytest.mark.parametrize('naming', ['affinity', 'logits', 'mixture'])
def test_a_model_in_half_precision_has_logits_of_patches(naming):
    tokens, assignment = torch.randn(2, 3, 4), torch.rand(2, 3, 4)
    module = head(class_embeds=torch.eye(4), naming=naming)
    expected = module(features(tokens, assignment))
    half = module.bfloat16()(features(tokens.bfloat16(), assignment.bfloat16()))
    torch.testing.assert_close(half.float(), expected, atol=0.3, rtol=0.1)
