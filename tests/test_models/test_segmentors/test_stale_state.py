"""What a model says of itself and predicts, after something has been changed behind its back."""

import threading

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmseg.registry import MODELS

from model_zoo import lively_model, tiny_model, tiny_model_cfg
from pgseg_mm.engine import VocabularyHook

CLASSES = ['dog', 'cat', 'grass', 'sky']


class RunnerOf:
    def __init__(self, model):
        self.model = model


def swap(model, averaged):
    """As mmengine's EMAHook does before and after a validation."""
    for one, other in zip(model.parameters(), averaged.module.parameters(), strict=True):
        kept = one.data.clone()
        one.data.copy_(other.data)
        other.data.copy_(kept)


def test_words_are_those_of_the_weights_after_a_validation_with_averaged_ones():
    model = tiny_model(vocabulary=CLASSES)
    averaged = ExponentialMovingAverage(model)
    model.train()
    with torch.no_grad():
        for parameter in model.text_encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    image = torch.rand(1, 3, 32, 32)
    swap(model, averaged)
    model.eval().predict(image)
    hook = VocabularyHook()
    hook.after_val_epoch(RunnerOf(model))
    swap(model, averaged)
    model.predict(image)
    alike = (model.decode_head.class_embeds * model.embed_words(CLASSES)).sum(-1)
    torch.testing.assert_close(alike, torch.ones(4))


def test_the_number_of_classes_is_that_of_the_words_at_once():
    model = tiny_model(vocabulary=CLASSES)
    assert (model.num_classes, model.out_channels) == (4, 4)
    model.predict(torch.rand(1, 3, 32, 32))
    model.set_vocabulary(['dog', 'cat'])
    assert model.num_classes == 2


def test_a_head_that_can_embed_no_words_is_refused():
    cfg = tiny_model_cfg(vocabulary=CLASSES)
    cfg['decode_head'].pop('text_channels')
    with pytest.raises(ValueError, match='has neither text_channels.*; set text_channels='):
        MODELS.build(cfg)
    cfg['decode_head']['class_embeds'] = torch.eye(20)[:4].tolist()
    cfg.pop('vocabulary')
    assert MODELS.build(cfg).num_classes == 4


def test_predictions_side_by_side_have_their_own_maps():
    model = lively_model(vocabulary=CLASSES, test_cfg=dict(mode='whole', groups=True)).eval()
    images = [torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(n)) for n in (1, 2)]

    def maps(image):
        return model.predict(image)[0].pred_groups

    expected = [maps(image) for image in images]
    wrong = []

    def predict(number):
        for _ in range(15):
            found = maps(images[number])
            wrong.extend(
                name
                for name, value in expected[number].items()
                if not torch.equal(found.get(name), value)
            )

    threads = [threading.Thread(target=predict, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
