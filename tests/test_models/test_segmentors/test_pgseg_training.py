"""What PGSeg learns from: its losses, and what each of them moves."""

import pytest
import torch
from mmengine.logging import MessageHub

from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.models.losses import PendingMatch, npr_loss
from pgseg_mm.text import tokenize


def test_losses_and_what_is_logged_beside_them():
    model = tiny_model().train()
    tokens = tokenize(['a dog', 'a cat', 'grass'], context_length=16)
    losses = model(torch.rand(3, 3, 32, 32), tokens=tokens, mode='loss')
    assert set(losses) == {
        'loss_contrastive',
        'temperature',
        'loss_npr_0',
        'loss_npr_1',
        'npr_temperature',
        'group_usage_0',
        'group_usage_1',
    }
    total, log = model.parse_losses(losses)
    expected = sum(losses[k] for k in ('loss_contrastive', 'loss_npr_0', 'loss_npr_1'))
    torch.testing.assert_close(total, expected)
    assert log['temperature'].item() == pytest.approx(0.07)
    assert log['npr_temperature'].item() == pytest.approx(0.1)


def with_text_prototypes(**kwargs) -> dict:
    text_prototypes = {'type': 'TextPrototypes', 'num_prototypes': 3, 'hidden_channels': 16}
    return {**tiny_model_cfg()['decode_head'], 'text_prototypes': text_prototypes, **kwargs}


def test_text_prototypes_add_a_loss_of_their_own_weight():
    model = tiny_model(decode_head=with_text_prototypes()).train()
    tokens = tokenize(['a dog', 'a cat', 'grass'], context_length=16)
    losses = model(torch.rand(3, 3, 32, 32), tokens=tokens, mode='loss')
    assert losses['loss_npr_text'].item() > 0
    total, _ = model.parse_losses(losses)
    names = ('loss_contrastive', 'loss_npr_0', 'loss_npr_1', 'loss_npr_text')
    torch.testing.assert_close(total, sum(losses[k] for k in names))
    # 0.01 of both directions' mean cross-entropies at temperature 0.1: at most 2 * (log 3 + 20)
    assert losses['loss_npr_text'].item() < 0.01 * 2 * (1.1 + 20)


def test_matching_goes_on_while_the_text_is_encoded_and_is_waited_for_once(monkeypatch):
    model = tiny_model(decode_head=with_text_prototypes()).train()
    events = []
    start, result = npr_loss.start_matching, PendingMatch.result
    monkeypatch.setattr(
        npr_loss, 'start_matching', lambda *args: events.append('match') or start(*args)
    )
    monkeypatch.setattr(PendingMatch, 'result', lambda self: events.append('wait') or result(self))
    model.text_encoder.register_forward_pre_hook(lambda *_: events.append('text'))
    model.decode_head.loss_contrastive.register_forward_hook(lambda *_: events.append('contrast'))
    tokens = tokenize(['a dog', 'a cat', 'grass'], context_length=16)
    model(torch.rand(3, 3, 32, 32), tokens=tokens, mode='loss')
    assert events.count('match') == events.count('wait') == 3
    assert events.index('match') < events.index('text') < events.index('wait')
    assert events.index('contrast') < events.index('wait')


@pytest.mark.parametrize(
    ('head', 'advice'),
    [
        ({'text_channels': 60}, 'set text_channels=64'),
        (
            {'text_prototypes': {'type': 'TextPrototypes', 'text_dims': 60}},
            'set text_prototypes.text_dims=64',
        ),
    ],
)
def test_refuses_widths_that_the_text_encoder_does_not_have(head, advice):
    with pytest.raises(ValueError, match=advice):
        tiny_model(decode_head={**tiny_model_cfg()['decode_head'], **head})


def test_text_prototypes_need_npr():
    with pytest.raises(ValueError, match='needs loss_npr'):
        tiny_model(decode_head=with_text_prototypes(loss_npr=None))


@pytest.mark.parametrize('head', [{}, with_text_prototypes()], ids=['I-NPR', 'T-NPR'])
@pytest.mark.parametrize('begin', [0, 5], ids=['NPR on', 'NPR not yet'])
def test_every_parameter_learns(head, begin):
    MessageHub.get_instance(f'every-parameter-{begin}').update_info('iter', 0)
    model = tiny_model(decode_head={**tiny_model_cfg()['decode_head'], **head}).train()
    model.decode_head.loss_npr.begin = begin
    tokens = tokenize(['a dog', 'a cat', 'grass'], context_length=16)
    total, _ = model.parse_losses(model(torch.rand(3, 3, 32, 32), tokens=tokens, mode='loss'))
    total.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_npr_alone_moves_neither_text_nor_projectors():
    model = tiny_model().train()
    tokens = tokenize(['a dog', 'a cat', 'grass'], context_length=16)
    losses = model(torch.rand(3, 3, 32, 32), tokens=tokens, mode='loss')
    losses['loss_npr_1'].backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert 'decode_head.loss_npr.logit_scale' in moved
    assert 'backbone.stages.1.grouping.pre_assign_attn.norm_post.weight' in moved
    assert not [n for n in moved if n.startswith(('text_encoder', 'backbone.stages.2'))]
    assert not [n for n in moved if n.startswith('decode_head') and 'npr' not in n]


def multi_label_model(**head_kwargs):
    head = dict(
        tiny_model_cfg()['decode_head'],
        loss_multi_label=dict(type='MultiLabelContrastiveLoss'),
        **head_kwargs,
    )
    return tiny_model(decode_head=head).train()


CAPTIONS = ['a dog on grass', 'a cat', 'grass']
PROMPTS = [['a dog.', 'the grass.'], ['a cat.', 'one cat.'], ['some grass.', 'grass']]


def caption_and_prompt_tokens() -> torch.Tensor:
    rows = [[caption, *prompts] for caption, prompts in zip(CAPTIONS, PROMPTS, strict=True)]
    return torch.stack([tokenize(row, context_length=16) for row in rows])


def test_prompts_go_through_the_text_encoder_with_the_captions_and_have_a_loss_of_their_own():
    model = multi_label_model(loss_npr=None)
    seen = {}
    for name in ('text_encoder', 'decode_head.text_projector'):
        model.get_submodule(name).register_forward_hook(
            lambda _, args, out, name=name: seen.setdefault(name, []).append((args[0], out))
        )
    model.decode_head.image_projector.register_forward_hook(
        lambda _, args, out: seen.update(images=out)
    )
    losses = model(torch.rand(3, 3, 32, 32), tokens=caption_and_prompt_tokens(), mode='loss')
    assert {name for name in losses if name.startswith('loss')} == {
        'loss_contrastive',
        'loss_multi_label',
    }
    ((tokens, text),) = seen['text_encoder']
    assert tokens.shape == (9, 16)
    ((_, embeds),) = seen['decode_head.text_projector']
    in_one_batch = model.decode_head.text_projector(text.eot)
    torch.testing.assert_close(embeds.flatten(0, 1), in_one_batch)
    captions, prompts = in_one_batch[::3], in_one_batch.unflatten(0, (3, 3))[:, 1:]
    head, images = model.decode_head, seen['images']
    torch.testing.assert_close(losses['loss_contrastive'], head.loss_contrastive(images, captions))
    expected = head.loss_multi_label(images, prompts, head.loss_contrastive.scale)
    torch.testing.assert_close(losses['loss_multi_label'], expected)


def test_multi_label_contrast_teaches_images_texts_and_the_shared_temperature():
    model = multi_label_model()
    assert set(model.state_dict()) == set(tiny_model().state_dict())
    losses = model(torch.rand(3, 3, 32, 32), tokens=caption_and_prompt_tokens(), mode='loss')
    losses['loss_multi_label'].backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {
        'backbone.patch_embed.weight',
        'text_encoder.token_embedding.weight',
        'decode_head.text_projector.fc2.weight',
        'decode_head.loss_contrastive.logit_scale',
    } <= moved


def test_text_prototypes_are_of_the_caption_only():
    model = multi_label_model(text_prototypes=dict(type='TextPrototypes', num_prototypes=3))
    seen = []
    for module in (model.text_encoder, model.decode_head.text_prototypes):
        module.register_forward_hook(lambda _, args, out: seen.append((args, out)))
    tokens = caption_and_prompt_tokens()
    losses = model(torch.rand(3, 3, 32, 32), tokens=tokens, mode='loss')
    (_, rows), ((_, *caption), _) = seen
    for given, of_all in zip(caption, rows, strict=True):
        assert torch.equal(given, of_all[::3])
    assert {'loss_npr_text', 'loss_multi_label'} <= set(losses)


def test_refuses_prompts_without_a_loss_and_the_loss_without_prompts():
    tokens, images = caption_and_prompt_tokens(), torch.rand(3, 3, 32, 32)
    with pytest.raises(ValueError, match='2 prompts beside each caption.*set loss_multi_label'):
        tiny_model().train()(images, tokens=tokens, mode='loss')
    with pytest.raises(ValueError, match='put NounPrompts or NamePrompts before TokenizeCaption'):
        multi_label_model()(images, tokens=tokens[:, 0], mode='loss')
