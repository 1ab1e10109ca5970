"""A batch in micro-batches gives the losses, gradients and state of the whole."""

import copy

import pytest
import torch
from torch import nn

from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.models.layers import micro_batches
from pgseg_mm.models.segmentors.checks import check_train_cfg
from pgseg_mm.text import tokenize

CAPTIONS = ['a dog', 'a cat on grass', 'two birds', 'a red fox', 'the sky', 'a car', 'mud']
PROMPTS = ['a photo of a dog', 'a photo of grass']


def model_with(size: int | None, noise: bool = False, norm_eval: bool = False, prompts=False):
    cfg = tiny_model_cfg()
    cfg['backbone'].update(gumbel=noise, drop_path_rate=0.5 if noise else 0.0, norm_eval=norm_eval)
    cfg['decode_head']['text_prototypes'] = {
        'type': 'TextPrototypes',
        'num_prototypes': 3,
        'hidden_channels': 16,
    }
    if prompts:
        cfg['decode_head']['loss_multi_label'] = {'type': 'MultiLabelContrastiveLoss'}
    cfg.pop('type')
    return tiny_model(**cfg, train_cfg=dict(micro_batch_size=size)).double().train()


def step(model, prompts: bool = False) -> dict[str, torch.Tensor]:
    """Losses, gradients and state of one training step."""
    images = torch.rand(7, 3, 32, 40, generator=torch.Generator().manual_seed(1)).double()
    tokens = tokenize(CAPTIONS, context_length=16)
    if prompts:
        prompt_tokens = tokenize(PROMPTS, context_length=16)
        tokens = torch.cat([tokens[:, None], prompt_tokens.expand(7, -1, -1)], dim=1)
    torch.manual_seed(2)
    losses = model(images, tokens=tokens, mode='loss')
    model.parse_losses(losses)[0].backward()
    out = {name: value.detach() for name, value in losses.items()}
    out |= {f'grad {name}': p.grad.clone() for name, p in model.named_parameters()}
    return out | {f'state {name}': v.clone() for name, v in model.state_dict().items()}


@pytest.mark.parametrize('prompts', [False, True])
@pytest.mark.parametrize('size', [1, 3, 7, 50])
def test_losses_gradients_and_state_are_those_of_the_whole_batch(size, prompts):
    whole = step(model_with(None, prompts=prompts), prompts)
    pieces = step(model_with(size, prompts=prompts), prompts)
    assert whole.keys() == pieces.keys()
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, atol=1e-8, rtol=1e-6, msg=name)


def test_frozen_batch_norm():
    whole, pieces = step(model_with(None, norm_eval=True)), step(model_with(2, norm_eval=True))
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, atol=1e-8, rtol=1e-6, msg=name)
    start = model_with(None).state_dict()
    names = [n for n in start if 'backbone' in n and 'running_' in n]
    assert names and all(torch.equal(pieces[f'state {n}'], start[n]) for n in names)


def test_the_backward_pass_sees_the_same_noise(monkeypatch):
    model = model_with(2, noise=True)
    recomputed = step(copy.deepcopy(model))
    monkeypatch.setattr(
        micro_batches, 'checkpoint', lambda function, *args, use_reentrant: function(*args)
    )
    kept = step(copy.deepcopy(model))
    for name, value in kept.items():
        torch.testing.assert_close(recomputed[name], value, msg=name)


def test_encoders_see_micro_batches_only():
    model = model_with(3)
    sizes = []
    model.backbone.stages[0].blocks[0].register_forward_pre_hook(
        lambda _, args: sizes.append(len(args[0]))
    )
    model.text_encoder.blocks[0].register_forward_pre_hook(
        lambda _, args: sizes.append(len(args[0]))
    )
    step(model)
    assert set(sizes) == {1, 3} and len(sizes) == 12  # forward and again in the backward pass


def test_evaluation_is_not_split():
    model = model_with(1).eval().float()
    model.set_vocabulary(['dog', 'cat'])
    sizes = []
    model.backbone.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    model.predict(torch.rand(3, 3, 32, 32))
    assert sizes == [3]


def test_a_misspelt_setting_is_told():
    with pytest.warns(UserWarning, match='train_cfg has microbatch_size, which nothing looks at'):
        tiny_model(train_cfg=dict(microbatch_size=2))


def test_refuses_a_backbone_that_takes_images_alone():
    class Whole(nn.Module):
        def forward(self, images):
            return images

    with pytest.raises(ValueError, match='micro_batch_size, but Whole takes images alone'):
        check_train_cfg(dict(micro_batch_size=2), Whole())


@pytest.mark.parametrize('size', [0, -1, 2.5, 'all', True])
def test_refuses_sizes_that_are_none(size):
    with pytest.raises(ValueError, match='micro_batch_size'):
        tiny_model(train_cfg=dict(micro_batch_size=size))
