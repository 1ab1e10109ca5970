"""State dicts of the releases, to ours and back."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from checkpoint_zoo import ARCHITECTURES, GROUPVIT, THREE_STAGES, TWO_STAGES, release_state
from pgseg_mm.checkpoints import PUBLISHED, mm_to_release, release_shapes, release_to_mm
from pgseg_mm.serialization.loading import CheckpointError

TABLE = Path(__file__).parents[1] / 'data' / 'parity' / 'pgseg_vits16_state_dict.tsv'


def published() -> dict[str, tuple]:
    rows = (line.split('\t') for line in TABLE.read_text().splitlines())
    return {name: tuple(map(int, filter(None, shape.split('x')))) for name, shape, _ in rows}


def assert_same(ours: dict, theirs: dict) -> None:
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype, name
        assert ours[name].shape == value.shape, name
        assert torch.equal(ours[name], value), name


def test_names_and_shapes_of_the_published_model():
    assert release_shapes(PUBLISHED) == published()
    assert len(published()) == 437


def test_published_groupvit_lacks_what_pgseg_added():
    added = ('downsample_spatial', 'mapping_text', 'Atten', 'img_encoder.logit_scale')
    expected = {k: v for k, v in published().items() if not any(part in k for part in added)}
    assert release_shapes(replace(PUBLISHED, prototypes=False)) == expected


def test_names_where_widths_differ():
    """The projector of group tokens is nested in the release, the reduction is not."""
    shapes = release_shapes(THREE_STAGES)
    projector = 'img_encoder.layers.1.group_projector'
    assert {k: v for k, v in shapes.items() if k.startswith(projector)} == {
        f'{projector}.0.0.weight': (64,),
        f'{projector}.0.0.bias': (64,),
        f'{projector}.0.1.fc1.weight': (32, 8),
        f'{projector}.0.1.fc1.bias': (32,),
        f'{projector}.0.1.fc2.weight': (6, 32),
        f'{projector}.0.1.fc2.bias': (6,),
        f'{projector}.1.weight': (64,),
        f'{projector}.1.bias': (64,),
        f'{projector}.2.weight': (128, 64),
    }
    # the same width before and after: flat
    assert 'img_encoder.layers.2.group_projector.1.fc1.weight' in shapes
    assert shapes['img_encoder.layers.2.downsample.reduction.1.weight'] == (192, 128)


@pytest.mark.parametrize('architecture', ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_there_and_back_changes_no_bit(architecture):
    state = release_state(architecture)
    # another order than the model's, and another type of number
    state = {name: state[name] for name in sorted(state)}
    state['img_encoder.norm.weight'] = state['img_encoder.norm.weight'].half()
    there = release_to_mm(state)
    assert there.report.complete
    # `prototype_channels` is not in a GroupViT
    assert there.architecture == architecture
    back = mm_to_release(there.state_dict, inert=there.inert, order=list(state))
    assert back.report.complete
    assert not back.report.added
    assert back.report.inert == there.report.inert
    assert_same(back.state_dict, state)
    assert set(there.report.used) | set(there.report.inert) == set(state)


@pytest.mark.parametrize('architecture', ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_converted_weights_load_strictly(architecture):
    there = release_to_mm(release_state(architecture))
    model = architecture.build()
    model.load_state_dict(there.state_dict)
    block = model.backbone.stages[0].blocks[0]
    assert torch.equal(
        block.attn.qkv.weight,
        release_state(architecture)['img_encoder.layers.0.blocks.0.attn.qkv.weight'],
    )


def test_what_plays_no_part_is_named_and_kept():
    there = release_to_mm(release_state(TWO_STAGES))
    kept = {name.rsplit('.', 1)[0] for name in there.inert}
    assert 'text_encoder.Atten' in kept
    assert 'img_encoder.mapping_text.linear_out' in kept
    assert list(there.inert) == there.report.inert
    assert len(there.inert) == 10
    assert not release_to_mm(release_state(GROUPVIT)).inert


def test_a_model_trained_here_gets_what_the_release_expects():
    state = TWO_STAGES.build().state_dict()
    first, second = mm_to_release(state), mm_to_release(state)
    assert first.report.complete
    assert len(first.report.added) == 10
    shapes = {name: tuple(value.shape) for name, value in first.state_dict.items()}
    assert shapes == release_shapes(TWO_STAGES)
    assert_same(first.state_dict, second.state_dict)
    assert torch.allclose(first.state_dict['text_encoder.Atten.mu'].norm(dim=1), torch.ones(1, 1))
    groupvit = mm_to_release(GROUPVIT.build().state_dict())
    assert groupvit.report.complete
    assert not groupvit.report.added


def test_each_kind_of_mismatch_is_listed():
    state = release_state(TWO_STAGES)
    del state['img_encoder.norm.weight']
    state['head.weight'] = torch.ones(2)
    state['text_projector.linear_out.bias'] = torch.ones(7)
    report = release_to_mm(state).report
    assert not report.complete
    assert report.missing == ['img_encoder.norm.weight']
    assert report.unexpected == ['head.weight']
    assert report.mismatched == [('text_projector.linear_out.bias', (7,), (20,))]
    assert '  text_projector.linear_out.bias: found 7, expected 20' in str(report).splitlines()


def test_a_checkpoint_without_text_or_projectors_is_partial():
    state = release_state(TWO_STAGES)
    image = {k: v for k, v in state.items() if k.startswith('img_encoder')}
    conversion = release_to_mm(image)
    assert not conversion.report.unexpected
    assert 'text_encoder.ln_final.weight' in conversion.report.missing
    assert 'img_projector.linear_out.weight' in conversion.report.missing
    backbone = TWO_STAGES.build().backbone
    loaded = {
        k.removeprefix('backbone.'): v for k, v in conversion.state_dict.items() if 'head' not in k
    }
    backbone.load_state_dict(loaded)


def test_text_prototypes_have_no_place_in_the_release():
    state = TWO_STAGES.build().state_dict()
    own = {
        'decode_head.text_prototypes.projector.fc1.weight': torch.ones(3, 3),
        'decode_head.text_prototypes.prototypes.mu': torch.ones(1, 8, 64),
    }
    report = mm_to_release({**state, **own}).report
    assert report.training_only == list(own)
    assert not report.complete
    mu = torch.linspace(-1, 1, 8).view(1, 8, 1)
    back = mm_to_release({**state, 'decode_head.text_prototypes.prototypes.mu': mu})
    assert back.report.complete
    assert torch.equal(back.state_dict['text_encoder.Atten.mu'], mu)


def test_assign_scale_is_folded_into_the_weights():
    """What the release computes without the factor is what our model computes with it."""
    scaled = replace(TWO_STAGES, assign_scale=3.0)
    model = scaled.build().eval()
    back = mm_to_release(model.state_dict(), scaled)
    assert any('assign_scale=3' in note for note in back.report.notes)
    plain = TWO_STAGES.build().eval()
    plain.load_state_dict(release_to_mm(back.state_dict).state_dict)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        ours, theirs = model.backbone(image), plain.backbone(image)
    for a, b in zip(ours.assignments, theirs.assignments, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (('conv1.weight', 'layer1.0.conv1.weight', 'fc.weight'), 'conv1.weight, layer1.0'),
        (('vision_model.layernorm.weight',), "Hugging Face's GroupViT.*hf_groupvit2mm.py"),
        (('backbone.stages.0.group_token',), 'of this project'),
        (('img_encoder.patch_embed.proj.weight',), 'no image encoder with stages of blocks'),
    ],
)
def test_other_checkpoints_are_refused(names, message):
    with pytest.raises(CheckpointError, match=message):
        release_to_mm({name: torch.ones(2) for name in names})


def test_sizes_that_contradict_each_other_are_refused():
    state = release_state(TWO_STAGES)
    state = {k: v for k, v in state.items() if 'layers.2' not in k}
    with pytest.raises(CheckpointError, match='no model can be built as the checkpoint describes'):
        release_to_mm(state)
    state = release_state(TWO_STAGES)
    state['img_encoder.pos_embed'] = torch.ones(1, 15, 64)
    with pytest.raises(CheckpointError, match='15 patches, which are no square'):
        release_to_mm(state)
    with pytest.raises(CheckpointError, match='heads for 2 stages are known'):
        release_to_mm(release_state(TWO_STAGES), num_heads=(1, 1))
