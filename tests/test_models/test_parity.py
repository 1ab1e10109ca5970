"""The model against numbers that the authors' release produced, for a small size.

Weights and images follow from seeds by the release's own state-dict names (``parity_rules.py``).
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import parity_rules
from pgseg_mm.models import PGSeg

STORED = np.load(Path(__file__).parents[1] / 'data' / 'parity' / 'pgseg_tiny.npz')
META = json.loads(str(STORED['meta']))
TOLERANCE = 1e-5
RENAMES = (
    (r'^decode_head\.loss_contrastive\.logit_scale$', 'logit_scale'),
    (r'^decode_head\.loss_npr\.logit_scale$', 'img_encoder.logit_scale'),
    (
        r'^decode_head\.(image|text)_projector',
        lambda m: f'{m[1].replace("image", "img")}_projector',
    ),
    (r'^backbone\.patch_embed', 'img_encoder.patch_embed.proj'),
    (r'^backbone\.patch_norm', 'img_encoder.patch_embed.norm'),
    (r'^backbone\.stages', 'img_encoder.layers'),
    (r'^backbone', 'img_encoder'),
    (r'\.grouping\.', '.downsample.'),
    (r'\.prototypes\.mu$', '.downsample_spatial.mu'),
    (r'\.reconstruction\.', '.downsample_spatial.mapping_x.'),
    (r'((?:img|text)_projector|mapping_x)\.fc1', r'\1.linear_hidden.0'),
    (r'((?:img|text)_projector|mapping_x)\.norm', r'\1.linear_hidden.1'),
    (r'((?:img|text)_projector|mapping_x)\.fc2', r'\1.linear_out'),
)
TEXT_RENAMES = (
    (r'\.blocks\.', '.transformer.resblocks.'),
    (r'attn\.qkv\.', 'attn.in_proj_'),
    (r'attn\.proj', 'attn.out_proj'),
    (r'norm([12])\.', r'ln_\1.'),
    (r'mlp\.fc1', 'mlp.c_fc'),
    (r'mlp\.fc2', 'mlp.c_proj'),
    (r'^text_encoder\.norm', 'text_encoder.ln_final'),
)


def release_name(name: str) -> str:
    for pattern, new in TEXT_RENAMES if name.startswith('text_encoder') else RENAMES:
        name = re.sub(pattern, new, name)
    return name


@pytest.fixture(scope='module')
def model() -> PGSeg:
    image, text = META['config']['img_encoder'], META['config']['text_encoder']
    width = META['config']['output_dim']
    model = PGSeg(
        backbone=dict(
            type='mmseg.PGSegViT',
            img_size=image['img_size'],
            patch_size=image['patch_size'],
            embed_dims=image['embed_dim'],
            depths=image['depths'],
            num_heads=image['num_heads'],
            num_group_tokens=image['num_group_tokens'],
            num_output_groups=image['num_output_groups'],
            out_type='groups',
        ),
        text_encoder=dict(
            type='mmseg.PGSegTextTransformer',
            vocab_size=text['vocab_size'],
            context_length=text['context_length'],
            embed_dims=text['width'],
            num_layers=text['layers'],
        ),
        decode_head=dict(
            type='mmseg.PGSegHead',
            in_channels=image['embed_dim'],
            channels=width,
            text_channels=text['width'],
            loss_contrastive=dict(type='mmseg.ImageTextContrastiveLoss'),
            loss_npr=dict(type='mmseg.NPRLoss'),
            loss_decode=dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True),
        ),
    ).double()
    state = {}
    for name, value in model.state_dict().items():
        release = release_name(name)
        # the release's projections are 1 x 1 convolutions
        conv = re.search(r'linear_(hidden\.0|out)\.weight$', release)
        shape = (*value.shape, 1) if conv else tuple(value.shape)
        weight = parity_rules.weight(release, shape, META['weight_seed'])
        state[name] = torch.from_numpy(np.asarray(weight)).reshape(value.shape)
    model.load_state_dict(state)
    return model.eval()


@pytest.fixture(scope='module')
def image() -> torch.Tensor:
    size = META['config']['img_encoder']['img_size']
    shape = tuple(META['image_shape'])
    return torch.from_numpy(parity_rules.image(META['image_seed'], shape, size // 4))


def assert_stored(key: str, value: torch.Tensor) -> None:
    stored, value = STORED[key], value.detach().numpy()
    if stored.dtype == np.uint8:
        assert np.array_equal(stored.reshape(value.shape), value), key
    else:
        np.testing.assert_allclose(value, stored, atol=TOLERANCE, rtol=0, err_msg=key)


@pytest.mark.parametrize('resolution', ['train_res', 'eval_res'])
def test_groups_assignments_prototypes_and_embeddings(model, image, resolution):
    size = META['config']['img_encoder']['img_size']
    x = image[:, :, :size, :size] if resolution == 'train_res' else image
    out = model.backbone(x)
    values = {'group_tokens': out.tokens, 'pooled': out.tokens.mean(1)}
    for i, assignment in enumerate(out.assignments):
        values |= {f'assign_soft_{i}': assignment, f'assign_argmax_{i}': assignment.argmax(1)}
        values[f'prototypes_{i}'] = out.prototypes[i]
    values['image_embed'] = model.decode_head.image_projector(out.tokens.mean(1))
    values['group_embed'] = model.decode_head.image_projector(out.tokens)
    stored = {key.split('/')[1] for key in STORED.files if key.startswith(resolution)}
    assert stored <= values.keys()
    for name in stored:
        assert_stored(f'{resolution}/{name}', values[name])


def test_text_and_contrastive_loss(model, image):
    length = META['config']['text_encoder']['context_length']
    tokens = parity_rules.tokens(META['token_seed'], META['num_texts'], length, META['eot_id'])
    eot = model.text_encoder(torch.from_numpy(tokens)).eot
    embeds = model.decode_head.text_projector(eot)
    assert_stored('text_eot', eot)
    assert_stored('text_embed', embeds)
    images = model.decode_head.image_projector(model.backbone(image).tokens.mean(1))
    loss = model.decode_head.loss_contrastive(images, embeds[: len(images)])
    assert_stored('loss_contrastive', loss)


@pytest.mark.parametrize('background', [0, 1])
@pytest.mark.parametrize('mode', ['whole', 'slide'])
def test_class_maps(model, image, monkeypatch, background, mode):
    head = model.decode_head
    monkeypatch.setattr(head, 'background_threshold', META['bg_thresh'] if background else None)
    monkeypatch.setattr(model, '_embed_vocabulary', lambda: None)  # embeddings are stored
    head.set_class_embeds(torch.from_numpy(STORED['class_embed']).double())
    crop, stride = META['crop'], META['stride']
    monkeypatch.setattr(
        model, 'test_cfg', dict(mode=mode, crop_size=crop, stride=stride, seg_logits=True)
    )
    key = f'seg/{mode}_bg{background}'
    height, width = STORED[key].shape[1:]
    result = model.predict(image[:1, :, :height, :width])[0]
    assert_stored(key, result.pred_sem_seg.data)
    if mode == 'slide':
        logits = result.seg_logits.data[None, :, 3::8, 3::8]
        assert_stored(f'seg/slide_logits_bg{background}_s8', logits)
