import pytest
import torch
from mmengine.logging import MessageHub
from mmseg.structures import SegDataSample

from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.models.losses import PendingMatch, npr_loss
from pgseg_mm.utils import tokenize

CLASSES = ['dog', 'cat', 'grass', 'sky']


def sample(**meta) -> SegDataSample:
    return SegDataSample(metainfo=meta)


def classes_of(samples) -> list[torch.Tensor]:
    return [s.pred_sem_seg.data for s in samples]


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
    assert events == ['match', 'match', 'text', 'match', 'contrast', 'wait', 'wait', 'wait']


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
    with pytest.raises(ValueError, match='put NounPrompts before TokenizeCaption'):
        multi_label_model()(images, tokens=tokens[:, 0], mode='loss')


def test_a_model_made_in_inference_mode_predicts():
    with torch.inference_mode():
        model = tiny_model(vocabulary=CLASSES)
        out = model.predict(torch.rand(1, 3, 32, 32))
    assert out[0].pred_sem_seg.data.shape == (1, 32, 32)


def test_prediction_fills_samples_at_the_original_size():
    model = tiny_model(vocabulary=CLASSES)
    samples = [sample(ori_shape=(50, 70), img_shape=(32, 48)) for _ in range(2)]
    out = model(torch.rand(2, 3, 32, 48), samples, mode='predict')
    assert out is samples
    assert out[0].pred_sem_seg.data.shape == (1, 50, 70)
    assert out[0].pred_sem_seg.data.max() < 4
    assert 'seg_logits' not in out[0]


def test_dense_scores_on_request_agree_with_the_classes():
    model = tiny_model(vocabulary=CLASSES, test_cfg=dict(mode='whole', seg_logits=True))
    out = model.predict(torch.rand(1, 3, 32, 48), [sample(ori_shape=(50, 70))])[0]
    assert out.seg_logits.data.shape == (4, 50, 70)
    assert torch.equal(out.seg_logits.data.argmax(0), out.pred_sem_seg.data[0])


SLIDE = dict(mode='slide', crop_size=32, stride=(16, 16), seg_logits=True)


@pytest.mark.parametrize(
    ('cfg', 'batches'),
    [({}, [8, 4]), ({'window_batch_size': 5}, [5, 5, 2]), ({'window_batch_size': None}, [12])],
)
def test_windows_of_all_images_go_through_in_batches(cfg, batches):
    model = tiny_model(vocabulary=CLASSES, test_cfg=dict(SLIDE, **cfg))
    sizes = []
    model.backbone.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape)))
    images = torch.rand(2, 3, 40, 56)
    together = model.predict(images)
    assert sizes == [(batch, 3, 32, 32) for batch in batches]
    model.test_cfg['window_batch_size'] = 1
    for sample, image in zip(together, images, strict=True):
        alone = model.predict(image[None])[0]
        torch.testing.assert_close(alone.seg_logits.data, sample.seg_logits.data)
        assert torch.equal(alone.pred_sem_seg.data, sample.pred_sem_seg.data)


def test_whole_images_stay_one_batch():
    model = tiny_model(vocabulary=CLASSES)
    sizes = []
    model.backbone.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    model.predict(torch.rand(11, 3, 32, 32))
    assert sizes == [11]


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('as_list', [False, True])
def test_refuses_images_that_are_not_finite(value, as_list):
    model = tiny_model(vocabulary=CLASSES)
    images = torch.rand(3, 3, 32, 48)
    images[1, 2, 31, 47] = value
    samples = [sample(img_path=f'folder/{name}.jpg') for name in 'abc']
    with pytest.raises(ValueError, match=r'infinite values in image 1 \(folder/b\.jpg\) of'):
        model.predict(list(images) if as_list else images, samples)
    assert not any('pred_sem_seg' in each for each in samples)
    images[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match='in image 0, 1 of the batch'):
        model.predict(list(images) if as_list else images)


def test_a_test_step_refuses_images_that_are_not_finite():
    images = [torch.rand(3, 32, 32), torch.full((3, 32, 40), float('nan'))]
    batch = dict(inputs=images, data_samples=[sample(), sample(img_path='b.jpg')])
    with pytest.raises(ValueError, match=r'image 1 \(b\.jpg\)'):
        tiny_model(vocabulary=CLASSES).test_step(batch)


def test_images_of_several_sizes_as_a_list():
    model = tiny_model(vocabulary=CLASSES)
    images = [torch.rand(3, 32, 48), torch.rand(3, 40, 32)]
    together = classes_of(model.predict(images))
    assert [tuple(t.shape) for t in together] == [(1, 32, 48), (1, 40, 32)]
    alone = [classes_of(model.predict([image]))[0] for image in images]
    assert all(map(torch.equal, together, alone))


def test_padding_and_flip_are_undone():
    model = tiny_model(vocabulary=CLASSES)
    image = torch.rand(1, 3, 32, 48)
    plain = classes_of(model.predict(image))[0]
    padded = torch.nn.functional.pad(image, (3, 2, 1, 4))
    meta = dict(padding_size=[3, 2, 1, 4], ori_shape=(32, 48))
    assert torch.equal(classes_of(model.predict(padded, [sample(**meta)]))[0], plain)
    meta = dict(flip=True, flip_direction='horizontal')
    flipped = classes_of(model.predict(image, [sample(**meta)]))[0]
    assert torch.equal(flipped, plain.flip(2))


def test_one_class_alone():
    out = tiny_model(vocabulary=['dog']).predict(torch.rand(1, 3, 32, 32))
    assert not out[0].pred_sem_seg.data.any()


def test_one_class_and_background():
    cfg = tiny_model_cfg()
    cfg['decode_head']['background_threshold'] = 0.5
    model = tiny_model(decode_head=cfg['decode_head'], vocabulary=['background', 'dog'])
    out = model.predict(torch.rand(1, 3, 32, 32))
    assert model.num_classes == 2
    assert set(out[0].pred_sem_seg.data.unique().tolist()) <= {0, 1}


def test_the_number_of_classes_follows_the_vocabulary_and_leaves_no_trace():
    model = tiny_model()
    keys = set(model.state_dict())
    for number in (3, 200):
        model.set_vocabulary([f'thing {i}' for i in range(number)])
        model.predict(torch.rand(1, 3, 32, 32))
        assert model.num_classes == model.out_channels == number
    assert set(model.state_dict()) == keys
    assert not [k for k in keys if 'conv_seg' in k or 'class_embeds' in k]


def count_embeddings(model) -> list[int]:
    calls = []
    model.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def test_words_are_embedded_once_and_again_when_text_weights_move():
    model = tiny_model(vocabulary=CLASSES)
    calls = count_embeddings(model)
    image = torch.rand(1, 3, 32, 32)
    for _ in range(3):
        model.predict(image)
        model.set_vocabulary(CLASSES)
    assert len(calls) == 1
    with torch.no_grad():
        model.backbone.norm.weight.mul_(2)  # no text weight
    model.predict(image)
    assert len(calls) == 1
    with torch.no_grad():
        model.decode_head.text_projector.fc2.weight.mul_(2)
    model.predict(image)
    assert len(calls) == 2
    model.text_encoder.norm.weight.data.mul_(2)  # past autograd, as EMA swaps its weights
    model.set_vocabulary(CLASSES)
    model.predict(image)
    assert len(calls) == 3


def test_embedding_happens_in_evaluation_mode_and_leaves_the_mode():
    model = tiny_model(vocabulary=CLASSES)
    expected = model.embed_words(CLASSES)
    model.train()
    torch.testing.assert_close(model.embed_words(CLASSES), expected)
    assert model.text_encoder.training and model.decode_head.text_projector.training


def test_templates_are_averaged_before_they_are_normalised():
    templates = ('a photo of a {}.', 'the {}')
    model = tiny_model(templates=templates)
    tokens = tokenize([t.format('dog') for t in templates], context_length=16)
    embeds = model.decode_head.text_projector(model.text_encoder(tokens).eot)
    expected = torch.nn.functional.normalize(embeds.mean(0, keepdim=True), dim=-1)
    torch.testing.assert_close(model.embed_words(['dog']), expected)


def test_dataset_meta_of_a_checkpoint_is_a_vocabulary():
    image = torch.rand(1, 3, 32, 32)
    expected = classes_of(tiny_model(vocabulary=CLASSES).predict(image))[0]
    model = tiny_model()
    model.dataset_meta = dict(classes=CLASSES, palette=[[0, 0, 0]] * 4)
    assert torch.equal(classes_of(model.predict(image))[0], expected)


def test_refuses_to_predict_without_classes():
    with pytest.raises(RuntimeError, match='no vocabulary'):
        tiny_model().predict(torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize(
    ('classes', 'message'),
    [(['dog', ''], 'mpty'), (['dog', 'Dog'], 'only one class'), ([], 'empty')],
)
def test_refuses_faulty_class_names(classes, message):
    with pytest.raises(ValueError, match=message):
        tiny_model().set_vocabulary(classes)


def test_refuses_a_threshold_without_a_background_class():
    cfg = tiny_model_cfg()
    cfg['decode_head']['background_threshold'] = 0.5
    with pytest.raises(ValueError, match="must be called 'background'"):
        tiny_model(decode_head=cfg['decode_head'], vocabulary=CLASSES)


def test_refuses_training_without_captions():
    with pytest.raises(ValueError, match='no tokens'):
        tiny_model()(torch.rand(2, 3, 32, 32), mode='loss')


@pytest.mark.parametrize(
    'test_cfg',
    [
        dict(mode='tiles'),
        dict(mode='slide', crop_size=32),
        dict(mode='whole', window_batch_size=0),
        dict(mode='whole', window_batch_size=1.5),
    ],
)
def test_refuses_a_faulty_test_cfg(test_cfg):
    with pytest.raises(ValueError, match='test_cfg (mode|window_batch_size)'):
        tiny_model(test_cfg=test_cfg)


@pytest.mark.parametrize('size', [(1, 1), (4, 40), (40, 7), (8, 3)])
def test_an_image_without_room_for_a_patch_is_stretched_to_one(size):
    model = tiny_model(vocabulary=CLASSES, test_cfg=dict(SLIDE, groups=True))
    image = torch.rand(1, 3, *size)
    (out,) = model.predict(image)
    assert out.pred_sem_seg.data.shape == (1, *size)
    assert out.seg_logits.data.shape == (4, *size)
    enough = tuple(max(side, 8) for side in size)
    stretched = torch.nn.functional.interpolate(image, enough, mode='bilinear')
    (expected,) = model.predict(stretched)
    rows, columns = (
        (torch.arange(old) * new + new // 2) // old for old, new in zip(size, enough, strict=True)
    )
    nearest = expected.pred_sem_seg.data[0][rows][:, columns]
    assert torch.equal(out.pred_sem_seg.data[0], nearest)


def test_mean_scores_of_classes_on_request():
    model = tiny_model(vocabulary=CLASSES, test_cfg=dict(SLIDE, class_scores=True))
    (out,) = model.predict(torch.rand(1, 3, 40, 56))
    labels, dense = out.pred_sem_seg.data[0], out.seg_logits.data
    for label, score in enumerate(out.class_scores):
        won = labels == label
        torch.testing.assert_close(score, dense[label][won].mean() if won.any() else score * 0)
    assert out.class_scores.max() > 0


def test_other_classes_with_the_same_weights():
    model = tiny_model(vocabulary=CLASSES)
    image = torch.rand(1, 3, 32, 32)
    before = classes_of(model.predict(image))[0]
    other = model.with_classes(['background', 'sea', 'sky'], 0.5, seg_logits=True)
    (out,) = other.predict(image)
    assert out.seg_logits.data.shape[0] == other.num_classes == 3
    assert (model.num_classes, model.vocabulary.names) == (4, tuple(CLASSES))
    assert model.decode_head.background_threshold is None and 'seg_logits' not in model.test_cfg
    assert torch.equal(classes_of(model.predict(image))[0], before)
    model.backbone.norm.weight.data.mul_(3)
    assert other.backbone.norm.weight is model.backbone.norm.weight
    again = other.with_classes(['sea', 'sky'])
    assert not again.decode_head.with_background
    with pytest.raises(ValueError, match='must be None or positive, got 0'):
        model.with_classes(['background', 'sea'], 0)


def test_words_are_not_embedded_again_for_another_threshold():
    model = tiny_model()
    calls = count_embeddings(model)
    image = torch.rand(1, 3, 32, 32)
    first = model.with_classes(['background', 'sea'], 0.5)
    first.predict(image)
    first.with_classes(['background', 'sea'], 0.9).predict(image)
    assert len(calls) == 1
    first.with_classes(['background', 'sea']).predict(image)  # where it is a word as others are
    assert len(calls) == 2
