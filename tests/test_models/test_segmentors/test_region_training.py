"""PGSeg learns from joined images: by regions, with all that a training may have."""

import copy
import statistics

import pytest
import torch
from mmengine.registry import DefaultScope

import region_zoo
from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.messages import first_line
from pgseg_mm.text import tokenize
from region_zoo import MOSAICS, PASTES, pairs, region_model

pytestmark = pytest.mark.usefixtures('fixed_step_seed')


def step(model, **kwargs) -> dict[str, torch.Tensor]:
    """Losses and gradients of one training step."""
    torch.manual_seed(2)
    batch = model.data_preprocessor(pairs(**kwargs), training=True)
    batch['inputs'] = batch['inputs'].to(next(model.parameters()).dtype)
    losses = model(**batch, mode='loss')
    model.parse_losses(losses)[0].backward()
    out = {name: value.detach() for name, value in losses.items()}
    return out | {f'grad {name}': p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize('augments', [PASTES, MOSAICS], ids=['pastes', 'mosaics'])
@pytest.mark.parametrize('prompts', [False, True, 'LateInteractionLoss'])
def test_every_parameter_learns_with_all_losses_in_two_stages(augments, prompts):
    found = step(region_model(augments, prompts), prompts=bool(prompts))
    names = {'loss_contrastive', 'loss_npr_0', 'loss_npr_1', 'loss_npr_text'}
    assert {n for n in found if n.startswith('loss')} == names | (
        {'loss_multi_label'} if prompts else set()
    )
    assert all(value is not None and value.isfinite().all() for value in found.values())
    assert found['grad backbone.patch_embed.weight'].abs().max() > 0


def test_the_contrast_is_that_of_the_regions_as_they_were_joined():
    model = region_model(texts=False)
    batch = model.data_preprocessor(pairs(), training=True)
    assert batch['regions'].num_regions == 2
    losses = copy.deepcopy(model)(**batch, mode='loss')
    head = model.decode_head
    features = model.backbone(batch['inputs'])
    regions = head.loss_contrastive.embed_regions(
        head.image_projector(features.tokens), features.patch_assignment(), batch['regions']
    )
    texts = head.text_projector(model.text_encoder(batch['tokens']).eot)
    expected = head.loss_contrastive(regions, texts, batch['regions'].captions.flatten())
    torch.testing.assert_close(losses['loss_contrastive'], expected)


@pytest.mark.parametrize('augments', [PASTES, MOSAICS], ids=['pastes', 'mosaics'])
@pytest.mark.parametrize('prompts', [False, 'LateInteractionLoss'])
@pytest.mark.parametrize('size', [1, 4])
def test_micro_batches_have_the_losses_and_gradients_of_the_whole(augments, prompts, size):
    in_pieces = dict(train_cfg=dict(micro_batch_size=size))
    whole, pieces = (
        step(region_model(augments, prompts, **settings).double(), prompts=bool(prompts))
        for settings in ({}, in_pieces)
    )
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, atol=1e-8, rtol=1e-6, msg=name)


def test_mosaics_come_in_smaller_micro_batches_of_as_many_pixels():
    model = region_model(MOSAICS, train_cfg=dict(micro_batch_size=4))
    sizes = []
    model.backbone.patch_embed.register_forward_pre_hook(
        lambda _, args: sizes.append(args[0].shape)
    )
    step(model)
    assert sizes[:2] == [(1, 3, 64, 64), (1, 3, 64, 64)]


def test_recomputed_activations_change_nothing():
    whole, recomputed = step(region_model()), step(region_model(backbone=dict(with_cp=True)))
    for name, value in whole.items():
        torch.testing.assert_close(recomputed[name], value, msg=name)


def test_half_precision_comes_near():
    whole = step(region_model())
    model = region_model()
    batch = model.data_preprocessor(pairs(), training=True)
    torch.manual_seed(2)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model(**batch, mode='loss')
    assert losses['loss_contrastive'].dtype == torch.float32
    torch.testing.assert_close(
        losses['loss_contrastive'].detach(), whole['loss_contrastive'], atol=0.05, rtol=0.05
    )


@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
@pytest.mark.parametrize('prompts', [True, 'LateInteractionLoss'])
@pytest.mark.parametrize('augments', [PASTES, MOSAICS], ids=['pastes', 'mosaics'])
def test_half_precision_micro_batches_and_recomputation_go_together(device, augments, prompts):
    def gradients(seed, half, **settings):
        model = region_model(augments, prompts, **settings).to(device)
        given = pairs(prompts=True)
        # of noise there is little to learn, and gradients of it are mostly rounding
        colors = torch.rand(8, 3, 1, 1, generator=torch.Generator().manual_seed(seed))
        given['inputs'] = 0.3 * given['inputs'] + 0.7 * 255 * colors
        given['tokens'][:, 1:] = tokenize(['a photo of a dog', 'a photo of grass'], 16)
        batch = model.data_preprocessor(given, training=True)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            loss, values = model.parse_losses(model(**batch, mode='loss'))
        loss.backward()
        assert all(value.isfinite().all() for value in values.values())
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    all_at_once = dict(train_cfg=dict(micro_batch_size=4), backbone=dict(with_cp=True))
    angles, lengths = [], []
    for seed in range(5):  # in one of them a patch may change its group by rounding
        whole, pieces = gradients(seed, half=False), gradients(seed, half=True, **all_at_once)
        angles.append(torch.cosine_similarity(pieces, whole, dim=0).item())
        lengths.append((pieces.norm() / whole.norm()).item())
    assert statistics.median(angles) > 0.95
    assert 0.85 < statistics.median(lengths) < 1.15


def test_a_batch_that_stays_whole_is_contrasted_by_its_projected_groups():
    never = dict(augments=[dict(type='PasteImages')], probs=[0.0])
    joined, plain = (step(region_model(x, texts=False).double()) for x in (never, None))
    for name, value in plain.items():
        torch.testing.assert_close(joined[name], value, msg=name)


def test_words_of_all_captions_of_an_image_are_its_text_prototypes():
    model = region_model(MOSAICS)
    seen = []
    model.decode_head.text_prototypes.register_forward_hook(lambda _, args, out: seen.append(args))
    texts = []
    model.text_encoder.register_forward_hook(lambda _, args, out: texts.append(out))
    batch = model.data_preprocessor(pairs(), training=True)
    model(**batch, mode='loss')
    ((centres, _, tokens, mask, number),) = seen
    assert number == 4
    captions = batch['regions'].captions
    assert len(centres) == len(tokens) == len(captions) == 2
    length = batch['tokens'].shape[1]
    for region in range(4):
        part = tokens[1, region * length : (region + 1) * length]
        torch.testing.assert_close(part, texts[0].tokens[captions[1, region]])
    assert mask[1].sum() == texts[0].mask[captions[1]].sum()


def test_evaluation_and_images_without_a_caption_stay_as_they_are():
    model = region_model()
    assert 'regions' not in model.data_preprocessor(pairs(), training=False)


def test_a_loss_that_knows_no_regions_is_refused_when_the_model_is_built():
    cfg = tiny_model_cfg()
    cfg['data_preprocessor']['batch_augments'] = PASTES
    cfg.pop('type')
    with (
        DefaultScope.overwrite_default_scope('mmseg'),
        pytest.raises(
            ValueError, match="set decode_head.loss_contrastive=dict.type='RegionText"
        ) as e,
    ):
        tiny_model(**cfg)
    assert first_line(e.value) == str(e.value)  # tools show all of it


def test_a_head_that_is_handed_regions_and_knows_none_says_so():
    model = tiny_model().train()
    batch = region_model().data_preprocessor(pairs(), training=True)
    with pytest.raises(ValueError, match='ImageTextContrastiveLoss, which knows no regions'):
        model(**batch, mode='loss')


def test_an_image_embedding_is_the_mean_of_the_projected_groups():
    model = region_model().eval()
    features = model.backbone(torch.rand(2, 3, 32, 32))
    head = model.decode_head
    groups = torch.nn.functional.normalize(head.image_projector(features.tokens), dim=-1)
    expected = torch.nn.functional.normalize(groups.mean(dim=1), dim=-1)
    torch.testing.assert_close(head.embed_images(features), expected)
    head.set_class_embeds(torch.randn(5, 20))
    head.top_classes = 1
    admitted = head.classify_groups(features).amax(dim=1) > 0
    assert torch.equal(admitted.int().argmax(dim=1), head.classify_images(features).argmax(dim=1))
    assert admitted.sum(dim=1).tolist() == [1, 1]


def test_late_interaction_is_of_the_groups_as_they_are_projected_for_the_captions():
    model = region_model(prompts='LateInteractionLoss', texts=False)
    batch = model.data_preprocessor(pairs(prompts=True), training=True)
    losses = copy.deepcopy(model)(**batch, mode='loss')
    head = model.decode_head
    features = model.backbone(batch['inputs'])
    groups = head.image_projector(features.tokens)
    texts = model.text_encoder(batch['tokens'].flatten(0, 1)).eot.unflatten(0, (8, 3))
    prompts = head.text_projector(texts)[:, 1:]
    expected = head.loss_multi_label(
        groups,
        prompts,
        head.loss_contrastive.scale,
        features.patch_assignment(),
        batch['regions'],
    )
    torch.testing.assert_close(losses['loss_multi_label'], expected)


def test_late_interaction_needs_groups_that_are_projected_each_by_itself():
    cfg = tiny_model_cfg()
    cfg.pop('type')
    cfg['decode_head']['loss_multi_label'] = {'type': 'LateInteractionLoss'}
    with pytest.raises(ValueError, match="set loss_contrastive=dict.type='RegionTextContrast'"):
        tiny_model(**cfg)


@pytest.mark.parametrize('size', [None, 3])
@pytest.mark.parametrize('kind', ['MultiLabelContrastiveLoss', 'LateInteractionLoss'])
def test_prompts_that_are_cut_apart_change_rounding_only(kind, size, monkeypatch):
    long = 'a dog that runs over the wet green grass'
    monkeypatch.setattr(region_zoo, 'CAPTIONS', [long, *region_zoo.CAPTIONS[1:]])
    whole = step(region_model(prompts=kind).double(), prompts=True)
    model = region_model(prompts=kind, train_cfg=dict(micro_batch_size=size)).double()
    model.data_preprocessor.prompts_apart = True
    shapes = []
    model.text_encoder.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    apart = step(model, prompts=True)
    if size is None:
        assert shapes == [(16, 8), (8, 16)]
    for name, value in whole.items():
        torch.testing.assert_close(apart[name], value, atol=1e-8, rtol=1e-6, msg=name)


@pytest.mark.parametrize('kind', ['MultiLabelContrastiveLoss', 'LateInteractionLoss'])
def test_prompts_belong_to_the_captions_of_regions(kind):
    model = region_model(prompts=kind, texts=False)
    batch = model.data_preprocessor(pairs(prompts=True), training=True)
    layout = batch['regions']
    wrong = layout._replace(captions=layout.captions.flip(0))
    found = [model(**{**batch, 'regions': x}, mode='loss') for x in (layout, wrong)]
    right, other = (losses['loss_multi_label'] for losses in found)
    assert (right - other).abs() > 1e-4


def test_prompts_come_apart_or_with_the_captions():
    model = region_model(prompts=True)
    batch = model.data_preprocessor(pairs(prompts=True), training=True)
    with pytest.raises(ValueError, match='prompts come apart or with the captions, not both'):
        model(**batch, prompts=batch['tokens'][:, 1:], mode='loss')
