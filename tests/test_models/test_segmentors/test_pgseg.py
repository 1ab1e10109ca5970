"""What PGSeg predicts, for which words and images."""

import pytest
import torch
from mmseg.structures import SegDataSample

from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.text import tokenize

CLASSES = ['dog', 'cat', 'grass', 'sky']


def sample(**meta) -> SegDataSample:
    return SegDataSample(metainfo=meta)


def classes_of(samples) -> list[torch.Tensor]:
    return [s.pred_sem_seg.data for s in samples]


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


def test_windows_are_padded_to_whole_patches():
    images = torch.rand(1, 3, 27, 37)
    scores = {}
    for divisor in (None, 8, 'patch'):
        cfg = dict(mode='whole', seg_logits=True, window_divisor=divisor)
        model = tiny_model(vocabulary=CLASSES, test_cfg=cfg)
        scores[divisor] = model.predict(images)[0].seg_logits.data
    assert model.backbone.patch_size == 8
    assert torch.equal(scores['patch'], scores[8])
    assert not torch.equal(scores['patch'], scores[None])
    with pytest.raises(ValueError, match='window_divisor must be an integer from 1'):
        tiny_model(test_cfg=dict(window_divisor='patches'))


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
        dict(mode='whole', window_divisor=10**6),
        dict(mode='whole', image_divisor=True),
        dict(mode='slide', crop_size='large', stride=16),
        dict(mode='slide', crop_size=32, stride=(16, 0)),
        dict(mode='slide', crop_size=10**6, stride=16, image_divisor='patch'),
        dict(mode='slide', crop_size=(32, 48), stride=(48, 32)),
    ],
)
def test_refuses_a_faulty_test_cfg(test_cfg):
    with pytest.raises(ValueError, match='test_cfg [a-z_]+'):
        tiny_model(test_cfg=test_cfg)


def test_a_setting_that_nothing_looks_at_is_told():
    with pytest.warns(UserWarning, match='test_cfg has window_divisr, which nothing looks at'):
        tiny_model(test_cfg=dict(window_divisr=8))


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


@pytest.mark.parametrize('size', [(40, 56), (20, 20), (90, 70)])
def test_mean_scores_of_classes_on_request(size):
    model = tiny_model(vocabulary=CLASSES, test_cfg=dict(SLIDE, class_scores=True))
    meta = dict(ori_shape=size)
    (out,) = model.predict(torch.rand(1, 3, 40, 56), [SegDataSample(metainfo=meta)])
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


def test_words_are_embedded_anew_after_a_training_past_autograd():
    model = tiny_model(vocabulary=['dog', 'cat'])
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        model.predict(image)
    before = model.decode_head.class_embeds
    model.train()
    weights = [*model.text_encoder.parameters()]
    versions = [weight._version for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=0.1, fused=True)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    assert [weight._version for weight in weights] == versions  # so nothing tells
    model.eval()
    with torch.no_grad():
        model.predict(image)
    assert not torch.allclose(model.decode_head.class_embeds, before, atol=1e-2)


def test_tensors_do_not_depend_on_an_earlier_prediction():
    image = torch.rand(1, 3, 32, 32)
    named = tiny_model()
    named.dataset_meta = dict(classes=('dog', 'cat'))
    given = tiny_model()
    given.decode_head.set_class_embeds(torch.nn.functional.normalize(torch.randn(2, 20), dim=-1))
    for model in (named, given):
        with torch.no_grad():
            first = model(image)
            model.predict(image)
            assert torch.equal(first, model(image)) and first.shape[:2] == (1, 2)
    assert not isinstance(tiny_model()(image), torch.Tensor)
