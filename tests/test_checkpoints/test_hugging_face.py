"""GroupViT of transformers, to ours and back: the same names and the same numbers."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import GroupViTConfig, GroupViTModel

from checkpoint_zoo import GROUPVIT, THREE_STAGES, TWO_STAGES
from pgseg_mm.checkpoints import hugging_face_to_mm, mm_to_hugging_face
from pgseg_mm.checkpoints.hugging_face import (
    hugging_face_config,
    load_hugging_face,
    save_hugging_face,
)
from pgseg_mm.serialization.loading import CheckpointError

# shapes of the published model, fewer blocks and narrower projectors
VISION = {'image_size': 224, 'depths': [2, 1, 1], 'num_hidden_layers': 4}
TEXT = {'num_hidden_layers': 2}


def random_groupvit(vision: dict = VISION, text: dict = TEXT) -> GroupViTModel:
    torch.manual_seed(0)
    config = GroupViTConfig(vision_config=vision, text_config=text, projection_intermediate_dim=128)
    model = GroupViTModel(config)
    with torch.no_grad():  # initialised as published, hardly anything depends on the input
        for name, value in model.state_dict().items():
            if name.endswith('running_var'):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point():
                value.add_(torch.randn_like(value) * (0.3 if value.ndim < 2 else 0.05))
    return model.eval()


@pytest.fixture(scope='module')
def theirs():
    return random_groupvit()


@pytest.fixture(scope='module')
def ours(theirs):
    conversion = hugging_face_to_mm(theirs.state_dict(), theirs.config.to_dict())
    assert conversion.report.complete
    model = conversion.architecture.build()
    model.load_state_dict(conversion.state_dict)
    return model.eval()


@pytest.mark.parametrize('size', [(224, 224), (208, 320)])
def test_images_give_the_same_groups_and_embeddings(theirs, ours, size):
    images = 2 * torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        vision = theirs.vision_model
        tokens = vision.embeddings(images, interpolate_pos_encoding=True)
        encoded = vision.encoder(tokens, output_attentions=True, return_dict=True)
        groups = vision.layernorm(encoded.last_hidden_state)
        embeds = theirs.visual_projection(groups.mean(dim=1))
        out = ours.backbone(images)
        our_embeds = ours.decode_head.image_projector(out.tokens.mean(dim=1))
    torch.testing.assert_close(out.tokens, groups, atol=1e-4, rtol=0)
    torch.testing.assert_close(our_embeds, embeds, atol=1e-4, rtol=0)
    assert len(out.assignments) == len(encoded.attentions) == 2
    for assignment, attention in zip(out.assignments, encoded.attentions, strict=True):
        torch.testing.assert_close(assignment, attention, atol=1e-4, rtol=0)
        assert torch.equal(assignment.argmax(1), attention.argmax(1))
    # the comparison means something: groups differ, and so do images
    assert embeds.std(dim=0).max() > 0.01
    assert encoded.attentions[0].argmax(1).unique().numel() > 1


def test_texts_give_the_same_embeddings(theirs, ours):
    ids = torch.zeros(3, 77, dtype=torch.long)
    for row, length in zip(ids, (1, 6, 75), strict=True):
        row[: length + 2] = torch.tensor([49406, *range(100, 100 + length), 49407])
    with torch.no_grad():
        pooled = theirs.text_model(ids).pooler_output
        embeds = theirs.text_projection(pooled)
        eot = ours.text_encoder(ids).eot
        our_embeds = ours.decode_head.text_projector(eot)
    torch.testing.assert_close(eot, pooled, atol=1e-4, rtol=0)
    torch.testing.assert_close(our_embeds, embeds, atol=1e-4, rtol=0)
    assert ours.decode_head.loss_contrastive.logit_scale == theirs.logit_scale


def test_there_and_back_changes_no_bit(theirs, tmp_path):
    there = hugging_face_to_mm(theirs.state_dict(), theirs.config.to_dict())
    back = mm_to_hugging_face(there.state_dict, there.architecture)
    assert back.report.complete
    assert back.state_dict.keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(back.state_dict[name], value), name
    save_hugging_face(tmp_path / 'model', back)
    loaded, info = GroupViTModel.from_pretrained(tmp_path / 'model', output_loading_info=True)
    assert not info['missing_keys'] and not info['unexpected_keys']
    for name, value in theirs.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    ids = torch.tensor([[49406, 320, 1125, 49407]])
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        a = theirs(input_ids=ids, pixel_values=images)
        b = loaded.eval()(input_ids=ids, pixel_values=images)
    # weights in a mapped file lie at other addresses, by which products are rounded
    torch.testing.assert_close(a.logits_per_image, b.logits_per_image, atol=1e-5, rtol=0)


def test_a_model_trained_here_computes_the_same_there(tmp_path):
    architecture = replace(
        GROUPVIT, num_heads=(2, 2, 2), text_heads=2, mlp_ratio=3.0, assign_scale=2.0
    )
    model = architecture.build().eval()
    save_hugging_face(tmp_path, mm_to_hugging_face(model.state_dict(), architecture))
    theirs, info = GroupViTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info['missing_keys'] and not info['unexpected_keys']
    images, ids = torch.randn(2, 3, 32, 32), torch.tensor([[58, 4, 59, 0], [58, 8, 9, 59]])
    with torch.no_grad():
        features = theirs.eval().get_image_features(images).pooler_output
        embeds = model.decode_head.image_projector(model.backbone(images).tokens.mean(1))
        texts = theirs.get_text_features(ids).pooler_output
        text_embeds = model.decode_head.text_projector(model.text_encoder(ids).eot)
    torch.testing.assert_close(embeds, features, atol=1e-4, rtol=0)
    torch.testing.assert_close(text_embeds, texts, atol=1e-4, rtol=0)


@pytest.mark.parametrize('file', ['model.safetensors', 'pytorch_model.bin', 'shards'])
def test_folders_of_every_kind_load(tmp_path, file):
    conversion = mm_to_hugging_face(GROUPVIT.build().state_dict(), GROUPVIT)
    save_hugging_face(tmp_path, conversion)
    weights = {k: v.clone() for k, v in conversion.state_dict.items()}
    old = {**weights, 'text_model.embeddings.position_ids': torch.arange(12)[None]}
    if file != 'model.safetensors':
        (tmp_path / 'model.safetensors').unlink()
    if file == 'pytorch_model.bin':
        torch.save(old, tmp_path / file)
    if file == 'shards':
        names = [f'pytorch_model-0000{i}-of-00002.bin' for i in (1, 2)]
        parts = [dict(list(old.items())[i::2]) for i in range(2)]
        for name, part in zip(names, parts, strict=True):
            torch.save(part, tmp_path / name)
        index = {'weight_map': {k: n for n, p in zip(names, parts, strict=True) for k in p}}
        (tmp_path / 'pytorch_model.bin.index.json').write_text(json.dumps(index))
    checkpoint, config = load_hugging_face(tmp_path)
    there = hugging_face_to_mm(checkpoint.state_dict, config)
    assert there.report.complete
    assert there.architecture == GROUPVIT
    assert list(there.inert) == (
        [] if file == 'model.safetensors' else ['text_model.embeddings.position_ids']
    )
    # without a config, the shapes tell all but the heads
    assert hugging_face_to_mm(checkpoint.state_dict).report.complete


def test_index_must_stay_in_its_folder(tmp_path):
    index = {'weight_map': {'a': '../other.bin'}}
    (tmp_path / 'model.safetensors.index.json').write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match='outside its folder'):
        load_hugging_face(tmp_path)


def test_heads_come_from_the_config():
    config = hugging_face_config(replace(GROUPVIT, num_heads=(4, 4, 4), text_heads=8))
    state = mm_to_hugging_face(GROUPVIT.build().state_dict(), GROUPVIT).state_dict
    architecture = hugging_face_to_mm(state, config).architecture
    assert (architecture.num_heads, architecture.text_heads) == ((4, 4, 4), 8)
    # transformers leaves out what is as published
    short = {'vision_config': {'num_attention_heads': 4}, 'text_config': {}}
    assert hugging_face_to_mm(state, short).architecture.text_heads == 4


@pytest.mark.parametrize(
    ('part', 'key', 'value'),
    [
        ('text_config', 'hidden_act', 'gelu'),
        ('vision_config', 'assign_eps', 1e-6),
        ('vision_config', 'layer_norm_eps', 1e-6),
    ],
)
def test_settings_that_ours_has_not_are_refused(part, key, value):
    state = mm_to_hugging_face(GROUPVIT.build().state_dict(), GROUPVIT).state_dict
    with pytest.raises(CheckpointError, match=f'{part}.{key} is {value!r}'):
        hugging_face_to_mm(state, {part: {key: value}})


def test_what_theirs_cannot_be_is_refused():
    plain = replace(THREE_STAGES, prototypes=False)
    for architecture, message in (
        (TWO_STAGES, 'has prototypes'),
        (plain, 'one width and one number of heads'),
        (replace(GROUPVIT, num_group_tokens=(5, 3, 0)), 'as many group tokens as groups'),
    ):
        with pytest.raises(CheckpointError, match=message):
            mm_to_hugging_face(architecture.build().state_dict(), architecture)


def test_a_config_of_another_model_is_refused(tmp_path):
    (tmp_path / 'config.json').write_text('{"model_type": "clip"}')
    with pytest.raises(CheckpointError, match="type 'clip', expected groupvit"):
        load_hugging_face(tmp_path)
    (tmp_path / 'config.json').write_text('{}')
    with pytest.raises(FileNotFoundError, match='neither model.safetensors'):
        load_hugging_face(tmp_path)


def test_images_that_are_no_squares_come_back(tmp_path):
    wide = replace(GROUPVIT, img_size=(32, 64))
    save_hugging_face(tmp_path, mm_to_hugging_face(wide.build().state_dict(), wide))
    checkpoint, config = load_hugging_face(tmp_path)
    conversion = hugging_face_to_mm(checkpoint.state_dict, config)
    assert conversion.report.complete and conversion.architecture.img_size == (32, 64)
