import pytest
import torch
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

from pgseg_mm.models import GroupFeatures, NonLearnablePrototypes, PGSegViT

TINY = dict(
    img_size=32,
    patch_size=8,
    embed_dims=24,
    depths=(1, 1, 1),
    num_heads=3,
    num_group_tokens=(6, 3, 0),
    num_output_groups=(6, 3),
    prototypes=dict(hidden_channels=16),
)


def tiny(**kwargs) -> PGSegViT:
    torch.manual_seed(0)
    return PGSegViT(**{**TINY, **kwargs})


def test_default_maps_of_every_stage_at_patch_resolution():
    maps = tiny().eval()(torch.rand(2, 3, 32, 32))
    assert [tuple(m.shape) for m in maps] == [(2, 24, 4, 4)] * 3


def test_maps_spread_group_features_by_the_soft_assignment():
    images = torch.rand(2, 3, 32, 32)
    groups = tiny(out_type='groups').eval()(images)
    last = tiny(out_indices=-1).eval()(images)[0]
    expected = torch.einsum('bgc,bghw->bchw', groups.tokens, groups.patch_assignment())
    torch.testing.assert_close(last, expected)


def test_groups_are_a_named_structure():
    out = tiny(out_type='groups').eval()(torch.rand(2, 3, 32, 32))
    assert isinstance(out, GroupFeatures)
    assert out.tokens.shape == (2, 3, 24)
    assert [tuple(a.shape) for a in out.assignments] == [(2, 6, 16), (2, 3, 6)]
    assert [tuple(c.shape) for c in out.centres] == [(2, 6, 24), (2, 3, 24)]
    assert [tuple(p.shape) for p in out.prototypes] == [(2, 6, 24), (2, 3, 24)]
    assert out.grid_size == (4, 4)


@pytest.mark.parametrize('size', [(40, 72), (33, 47), (8, 100), (64, 16)])
def test_any_size_is_floored_to_patches(size):
    images = torch.rand(1, 3, *size)
    model = tiny(out_type='groups').eval()
    out = model(images)
    height, width = size[0] // 8, size[1] // 8
    assert out.grid_size == (height, width)
    seen = model(images[:, :, : height * 8, : width * 8])
    torch.testing.assert_close(out.tokens, seen.tokens)


@pytest.mark.parametrize(
    ('depths', 'tokens', 'groups'),
    [
        ((2, 1), (5, 0), (4,)),
        ((1, 1, 1), (6, 3, 0), (5, 2)),
        ((1, 1, 1, 1), (8, 4, 2, 0), (8, 4, 2)),
    ],
)
def test_one_to_three_grouping_stages(depths, tokens, groups):
    model = tiny(
        depths=depths, num_group_tokens=tokens, num_output_groups=groups, out_type='groups'
    )
    out = model.eval()(torch.rand(2, 3, 32, 32))
    assert out.patch_assignment().shape == (2, groups[-1], 4, 4)


def test_stages_of_different_widths():
    model = tiny(embed_dims=(24, 36, 48), num_heads=(3, 3, 4)).eval()
    maps = model(torch.rand(2, 3, 32, 32))
    assert [m.shape[1] for m in maps] == [36, 48, 48]


def test_without_prototypes_it_is_groupvit():
    model = tiny(prototypes=None, out_type='groups').eval()
    assert not [k for k in model.state_dict() if 'prototypes' in k or 'reconstruction' in k]
    assert model(torch.rand(1, 3, 32, 32)).prototypes == ()


def test_every_parameter_gets_a_gradient():
    model = tiny(out_type='groups').train()
    model(torch.rand(2, 3, 32, 32)).tokens.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_published_initialisation():
    torch.manual_seed(0)
    model = PGSegViT(depths=(1, 1, 1))
    assert model.stages[0].blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    assert not model.stages[1].grouping.assign.q_proj.bias.any()
    bound = 384**-0.5  # torch's default for a convolution
    weight = model.stages[0].reconstruction.fc1.weight
    assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(
        bound / 3**0.5, rel=0.05
    )


def test_drop_path_rises_linearly_over_all_blocks():
    rates = [
        block.residual.drop_prob
        for stage in PGSegViT(drop_path_rate=0.1).stages
        for block in stage.blocks
    ]
    assert rates == pytest.approx(torch.linspace(0, 0.1, 12).tolist())


def test_loads_a_position_embedding_of_another_image_size():
    small, large = tiny(), tiny(img_size=(64, 32))
    large.load_state_dict(small.state_dict())
    assert large.pos_embed.shape == (1, 32, 24)
    images = torch.rand(1, 3, 64, 32)
    torch.testing.assert_close(large.eval()(images)[0], small.eval()(images)[0])


def test_as_many_positions_in_another_shape_are_told(log):
    square, wide = tiny(), tiny(img_size=(16, 64))
    tiny().load_state_dict(square.state_dict())
    assert 'positions' not in log.text
    wide.load_state_dict(square.state_dict())
    assert 'taken as 2 x 8 patches' in log.text and 'trained with 4 x 4' in log.text


def test_batch_norms_that_a_framework_converts_keep_their_statistics_too():
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(tiny(norm_eval=True)).train()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    assert norms and not any(norm.training for norm in norms)


def test_depth_of_every_parameter():
    """For a rate that decays from layer to layer, as mmpretrain's constructor asks for it."""
    model = tiny(depths=(2, 1, 3))
    prefixes = {
        'pos_embed': 0,
        'patch_embed.': 0,
        'patch_norm.': 0,
        'stages.0.group_token': 1,
        'stages.0.blocks.0.': 1,
        'stages.0.blocks.1.': 2,
        'stages.0.reconstruction.': 2,
        'stages.0.grouping.': 2,
        'stages.1.group_token': 3,
        'stages.1.group_projector.': 3,
        'stages.1.blocks.0.': 3,
        'stages.1.reconstruction.': 3,
        'stages.1.grouping.': 3,
        'stages.2.blocks.0.': 4,
        'stages.2.blocks.1.': 5,
        'stages.2.blocks.2.': 6,
        'norm.': 7,
    }
    seen = set()
    for name, _ in model.named_parameters():
        (prefix,) = (prefix for prefix in prefixes if name.startswith(prefix))
        assert model.get_layer_depth(f'backbone.{name}', 'backbone.') == (prefixes[prefix], 8)
        assert model.get_layer_depth(name) == (prefixes[prefix], 8)
        seen.add(prefix)
    assert seen == prefixes.keys()
    assert model.get_layer_depth('decode_head.norm.weight', 'backbone.') == (7, 8)
    assert model.get_layer_depth('neck.stages.0.blocks.0.weight', 'backbone.') == (7, 8)


def test_clusters_in_float32_under_autocast():
    model = tiny(out_type='groups').train()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = model(torch.rand(2, 3, 32, 32))
    assert all(p.dtype == torch.float32 for p in out.prototypes)
    out.tokens.float().sum().backward()
    assert model.stages[0].reconstruction.fc1.weight.grad.isfinite().all()


def test_attention_is_torchs_fused_one(monkeypatch):
    calls = []
    original = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        'scaled_dot_product_attention',
        lambda *a, **k: calls.append(1) or original(*a, **k),
    )
    tiny().eval()(torch.rand(1, 3, 32, 32))
    assert len(calls) == 3 + 2  # blocks, and the cross-attention of both grouping stages


def test_found_by_its_registered_name():
    assert isinstance(MODELS.build(dict(type='PGSegViT', **TINY)), PGSegViT)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(num_heads=5), 'divisible'),
        (dict(depths=(2,), num_group_tokens=(0,), num_output_groups=()), 'one to three'),
        (dict(num_group_tokens=(6, 3, 2)), '0 for the last'),
        (dict(num_output_groups=(6,)), 'num_output_groups'),
        (dict(num_heads=(3, 3)), 'num_heads'),
        (dict(out_type='cls_token'), 'out_type'),
        (dict(out_indices=(0, 3)), 'out_indices'),
        (dict(img_size=4), 'smaller than patch_size'),
    ],
)
def test_refuses_arguments_that_do_not_fit(kwargs, message):
    with pytest.raises(ValueError, match=message):
        tiny(**kwargs)


@pytest.mark.parametrize('shape', [(2, 1, 32, 32), (2, 4, 32, 32), (3, 32, 32)])
def test_refuses_a_wrong_number_of_channels(shape):
    with pytest.raises(ValueError, match=r'expected images of shape \(B, 3, H, W\)'):
        tiny()(torch.rand(*shape))


def test_refuses_an_image_smaller_than_a_patch():
    with pytest.raises(ValueError, match='at least one patch of 8'):
        tiny()(torch.rand(1, 3, 7, 32))


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 3])
def test_frozen_stages_neither_train_nor_draw_noise(frozen_stages):
    model = tiny(frozen_stages=frozen_stages, drop_path_rate=0.5).train()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    everything = {name for name, _ in model.named_parameters()}
    stem = {name for name in everything if name.startswith(('patch_', 'pos_embed'))}
    stages = tuple(f'stages.{i}.' for i in range(frozen_stages))
    frozen = {name for name in everything if name.startswith(stages)} if stages else set()
    frozen |= stem if frozen_stages >= 0 else set()
    frozen |= {'norm.weight', 'norm.bias'} if frozen_stages == 3 else set()
    assert trained == everything - frozen
    assert [stage.training for stage in model.stages] == [i >= frozen_stages for i in range(3)]
    images = torch.rand(2, 3, 32, 32)
    if frozen_stages == 3:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        for out, expected in zip(model(images), tiny().eval()(images), strict=True):
            torch.testing.assert_close(out, expected)
        assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())
    else:
        model(images)[-1].sum().backward()


def test_more_frozen_stages_than_there_are_is_refused():
    with pytest.raises(
        ValueError, match=r'frozen_stages must be -1 \(none\) to 3 \(all stages\), got 12'
    ):
        tiny(frozen_stages=12)


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmengine'])
def test_builds_from_a_config_of_another_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        model = ROOT_MODELS.build(dict(type='mmseg.PGSegViT', **TINY))
    assert isinstance(model.stages[0].prototypes, NonLearnablePrototypes)
