"""What weights must have to predict with, to go on with, and to begin with."""

from dataclasses import replace

import pytest
import torch
from mmengine.config import Config

from checkpoint_zoo import GROUPVIT, THREE_STAGES, TWO_STAGES
from pgseg_mm.checkpoints import hugging_face_to_mm, mm_to_hugging_face, release_to_mm
from pgseg_mm.checkpoints.architecture import architecture_of_model, model_of_config
from pgseg_mm.checkpoints.fitting import load_fitting
from pgseg_mm.checkpoints.hugging_face import hugging_face_config
from pgseg_mm.checkpoints.mm_checkpoint import architecture_of, save_mm
from pgseg_mm.checkpoints.release import mm_to_release
from pgseg_mm.serialization.loading import Checkpoint, CheckpointError


@pytest.fixture
def state():
    return TWO_STAGES.build().state_dict()


def other_shape(state, name):
    """The weights with one entry of another shape."""
    return {**state, name: torch.zeros(3)}


@pytest.mark.parametrize('purpose', ['predict', 'resume'])
def test_one_entry_of_another_shape_is_refused(state, purpose):
    name = 'backbone.stages.0.blocks.0.norm1.weight'
    with pytest.raises(CheckpointError, match=f'a.pth does not fit the model.*{name}'):
        load_fitting(TWO_STAGES.build(), other_shape(state, name), 'a.pth', purpose)
    fit = load_fitting(TWO_STAGES.build(), other_shape(state, name), 'a.pth', purpose, True)
    assert len(fit.mismatched) == 1 and not fit.missing


@pytest.mark.parametrize(('share', 'is_enough'), [(0.3, False), (0.45, False), (0.55, True)])
def test_half_of_the_backbone_is_enough_to_begin_with(state, share, is_enough):
    names = [name for name in state if name.startswith('backbone.')]
    kept = {name: state[name] for name in names[: round(share * len(names))]}
    if is_enough:
        assert load_fitting(TWO_STAGES.build(), kept, 'a.pth', 'begin').missing
        return
    with pytest.raises(CheckpointError, match='a.pth does not fit the model'):
        load_fitting(TWO_STAGES.build(), kept, 'a.pth', 'begin')


def test_height_and_width_of_a_model_are_told_apart(tmp_path):
    tall = replace(TWO_STAGES, img_size=(64, 32))
    assert architecture_of_model(tall.build(), 'a.py').img_size == (64, 32)
    path = tmp_path / 'a.py'
    Config(dict(model=tall.model_cfg())).dump(str(path))
    assert model_of_config(path)[1].img_size == (64, 32)


def test_the_scale_that_a_converter_has_noted_is_kept(tmp_path):
    scaled = replace(TWO_STAGES, assign_scale=4.0)
    state = scaled.build().state_dict()
    conversion = release_to_mm(mm_to_release(state, scaled).state_dict)
    save_mm(tmp_path / 'a.pth', conversion._replace(architecture=scaled), 'a.pth', [])
    content = torch.load(tmp_path / 'a.pth', weights_only=False)
    found, told = architecture_of(Checkpoint(content['state_dict'], {'meta': content['meta']}, ()))
    assert found == scaled and told == 'as the converter noted'


def test_the_scale_of_the_assignment_is_that_of_its_biases_too():
    scaled = replace(TWO_STAGES, assign_scale=3.0)
    model = scaled.build()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if '.grouping.assign.q_proj.' in name:
                value.normal_()
    plain = TWO_STAGES.build()
    folded = mm_to_release(model.state_dict(), scaled).state_dict
    plain.load_state_dict(release_to_mm(folded).state_dict)
    expected = dict(model.named_parameters())
    for name, value in plain.named_parameters():
        factor = 3.0 if '.grouping.assign.q_proj.' in name else 1.0
        torch.testing.assert_close(value, factor * expected[name], msg=name)


def test_heads_that_differ_have_no_place_in_transformers():
    heads = replace(GROUPVIT, num_heads=(1, 2, 1))
    with pytest.raises(CheckpointError, match='one width and one number of heads'):
        mm_to_hugging_face(heads.build().state_dict(), heads)
    widths = replace(THREE_STAGES, prototypes=False, num_heads=(1, 1, 1, 1))
    with pytest.raises(CheckpointError, match='one width and one number of heads'):
        mm_to_hugging_face(widths.build().state_dict(), widths)


def test_the_last_two_words_begin_and_end_a_text_in_transformers():
    text = hugging_face_config(GROUPVIT)['text_config']
    assert (text['bos_token_id'], text['eos_token_id']) == (58, 59)
    state = mm_to_hugging_face(GROUPVIT.build().state_dict(), GROUPVIT).state_dict
    assert hugging_face_to_mm(state, hugging_face_config(GROUPVIT)).report.complete


def test_text_prototypes_of_the_paper_start_untrained():
    state = TWO_STAGES.build().state_dict()
    released = mm_to_release(state).state_dict
    model = TWO_STAGES.build()
    model.decode_head.text_prototypes = torch.nn.Module()
    model.decode_head.text_prototypes.prototypes = torch.nn.Module()
    model.decode_head.text_prototypes.prototypes.mu = torch.nn.Parameter(torch.ones(1, 8, 64))
    conversion = release_to_mm(released, model=model)
    assert any('T-NPR' in note for note in conversion.report.notes)
    assert not any('text_prototypes' in name for name in conversion.state_dict)
    assert conversion.report.complete
