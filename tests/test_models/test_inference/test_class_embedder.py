"""Words to embeddings: by the parts of the moment, and given to the head that needs them."""

import copy
import io

import pytest
import torch

from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.models import PGSegClassifier
from pgseg_mm.models.inference.class_embedder import ClassEmbedder
from pgseg_mm.models.inference.evaluation_mode import evaluating
from pgseg_mm.text import get_templates, tokenize

CLASSES = ['dog', 'cat', 'grass', 'sky']
OTHERS = ['sea', 'red car']
IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def scores(model) -> torch.Tensor:
    """(1, K, H, W)."""
    with torch.no_grad():
        return model.encode_decode(IMAGE, [dict(img_shape=(32, 32))])


def fresh_scores(classes, change=None) -> torch.Tensor:
    model = tiny_model(vocabulary=classes)
    if change is not None:
        change(model)
    return scores(model)


def pickled(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_by_its_parts_alone():
    model = tiny_model()
    parts = model.text_encoder, model.decode_head.text_projector
    templates = get_templates('subset7')
    embedder = ClassEmbedder(*parts, templates)
    tokens = tokenize([template.format('dog') for template in templates], context_length=16)
    with torch.no_grad():
        embeds = parts[1](parts[0](tokens).eot).mean(0, keepdim=True)
    found = embedder.embed_words(['dog'])
    torch.testing.assert_close(found, torch.nn.functional.normalize(embeds, dim=-1))
    torch.testing.assert_close(tiny_model(templates='subset7').embed_words(['dog']), found)


def test_prompts_are_averaged_as_they_are_or_at_unit_length():
    plain, unit = (
        tiny_model(templates='subset7', normalize_prompts=normalize) for normalize in (False, True)
    )
    prompts = [template.format('dog') for template in get_templates('subset7')]
    with evaluating(plain.text_encoder, plain.decode_head.text_projector), torch.no_grad():
        tokens = plain.text_encoder.tokenize(prompts)
        embeds = plain.decode_head.text_projector(plain.text_encoder(tokens).eot).double()
    lengths = embeds.norm(dim=1, keepdim=True)
    assert lengths.max() > 1.01 * lengths.min()  # it makes a difference
    for model, rows in ((plain, embeds), (unit, embeds / lengths)):
        mean = rows.mean(0)
        found = model.embed_words(['dog'])[0].double()
        torch.testing.assert_close(found, mean / mean.norm(), atol=1e-6, rtol=1e-6)


def test_embeddings_follow_the_encoder_to_another_device():
    model = tiny_model(vocabulary=CLASSES)
    embedder, head = model.class_embedder, model.decode_head
    given = embedder.update(head, model.vocabulary)
    head.class_embeds = head.class_embeds.to('meta')  # where the encoder was before
    found = embedder.update(head, model.vocabulary, given._replace(embeds=head.class_embeds))
    torch.testing.assert_close(found.embeds, given.embeds)
    assert found.embeds is head.class_embeds


def test_a_head_is_given_embeddings_when_it_lacks_them():
    model = tiny_model(vocabulary=CLASSES)
    embedder, head = model.class_embedder, model.decode_head
    given = embedder.update(head, model.vocabulary)
    assert given.embeds is head.class_embeds and len(given.embeds) == 4
    assert embedder.update(head, model.vocabulary, given) is given
    assert embedder.update(head, model.vocabulary, given.in_doubt()).embeds is given.embeds
    model.text_encoder.norm.weight.data.mul_(-2)  # past autograd
    assert embedder.update(head, model.vocabulary, given) is given
    assert embedder.update(head, model.vocabulary, given.in_doubt()).embeds is not given.embeds


@pytest.mark.parametrize('embedded', [False, True], ids=['before', 'after the first prediction'])
@pytest.mark.parametrize('copied', [copy.copy, copy.deepcopy, pickled])
def test_copies_predict_their_own_classes(copied, embedded):
    model = tiny_model(vocabulary=CLASSES)
    if embedded:
        scores(model)
    other = copied(model)
    assert torch.equal(scores(other), fresh_scores(CLASSES))
    other.set_vocabulary(OTHERS)
    for _ in range(2):
        assert torch.equal(scores(other), fresh_scores(OTHERS))
        assert torch.equal(scores(model), fresh_scores(CLASSES))


def test_a_copy_has_words_embedded_by_its_own_weights():
    model = tiny_model(vocabulary=CLASSES)
    other = copy.deepcopy(model)
    other.text_encoder.norm.weight.data.mul_(-2)
    other.text_encoder.token_embedding.weight.data.mul_(3)
    embeds = other.embed_words(CLASSES)
    assert not torch.allclose(embeds, model.embed_words(CLASSES))
    scores(other)
    torch.testing.assert_close(other.decode_head.class_embeds, embeds)


def test_views_predict_their_own_classes():
    model = tiny_model(vocabulary=CLASSES)
    scores(model)
    view = model.with_classes(OTHERS)
    for _ in range(2):
        assert torch.equal(scores(view), fresh_scores(OTHERS))
        assert torch.equal(scores(model), fresh_scores(CLASSES))
    assert set(view.state_dict()) == set(model.state_dict()) == set(tiny_model().state_dict())


def other_text_encoder(model):
    model.text_encoder = copy.deepcopy(model.text_encoder)
    torch.nn.init.normal_(model.text_encoder.token_embedding.weight)


def other_head(model):
    model.decode_head = copy.deepcopy(model.decode_head)
    torch.nn.init.normal_(model.decode_head.text_projector.fc2.weight)


def other_templates(model):
    model.templates = get_templates('subset7')


@pytest.mark.parametrize('replace', [other_text_encoder, other_head, other_templates])
def test_parts_may_be_replaced(replace):
    def replaced(model):
        torch.manual_seed(1)
        replace(model)

    model = tiny_model(vocabulary=CLASSES)
    before = scores(model)
    replaced(model)
    assert torch.equal(scores(model), fresh_scores(CLASSES, replaced))
    assert not torch.equal(scores(model), before)


def test_a_compiled_model_has_the_same_words():
    model = tiny_model(vocabulary=CLASSES)
    model.text_encoder.compile(backend='eager')
    compiled = torch.compile(model, backend='eager')
    compiled.set_vocabulary(OTHERS)
    expected = tiny_model().embed_words(OTHERS)
    torch.testing.assert_close(compiled.embed_words(OTHERS), expected)
    scores(compiled)
    torch.testing.assert_close(model.decode_head.class_embeds, expected)


def test_embeddings_follow_the_weights_to_another_type():
    model = tiny_model(vocabulary=CLASSES)
    scores(model)
    model.double()
    model.predict(IMAGE.double())
    expected = tiny_model().double().embed_words(CLASSES)
    torch.testing.assert_close(model.decode_head.class_embeds, expected)


def test_a_head_with_given_embeddings_needs_no_words():
    expected = fresh_scores(CLASSES)
    model = tiny_model()
    model.decode_head.set_class_embeds(model.embed_words(CLASSES))
    assert torch.equal(scores(model), expected)
    assert model.predict(IMAGE)[0].pred_sem_seg.data.shape == (1, 32, 32)
    assert model.vocabulary is None
    model.set_vocabulary(OTHERS)
    assert torch.equal(scores(model), fresh_scores(OTHERS))


def test_embeddings_given_to_the_head_do_not_outlive_the_next_prediction_by_words():
    model = tiny_model(vocabulary=CLASSES)
    scores(model)
    model.decode_head.set_class_embeds(torch.eye(20)[:7])
    assert torch.equal(scores(model), fresh_scores(CLASSES))


def test_the_background_may_get_and_lose_its_threshold():
    model = tiny_model(vocabulary=['background', 'sea'])
    model.predict(IMAGE)
    for threshold, words in ((0.5, 1), (None, 2)):
        model.decode_head.set_background_threshold(threshold)
        model.predict(IMAGE)
        assert (model.num_classes, len(model.decode_head.class_embeds)) == (2, words)
    model.set_vocabulary(OTHERS)
    model.predict(IMAGE)
    model.decode_head.set_background_threshold(0.5)
    with pytest.raises(ValueError, match="class 0 must be called 'background', got 'sea'"):
        model.predict(IMAGE)


def test_parts_that_are_frozen_stay_in_evaluation_mode():
    model = tiny_model().train()
    model.text_encoder.norm.eval()
    modes = [module.training for module in model.modules()]
    model.embed_words(CLASSES)
    assert [module.training for module in model.modules()] == modes
    model.text_encoder.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.embed_words(CLASSES)
    assert [module.training for module in model.modules()] == modes


def test_several_modules_evaluate_at_a_time():
    first, second = torch.nn.Sequential(torch.nn.Dropout()), torch.nn.Dropout().eval()
    with evaluating(first, second):
        assert not (first.training or first[0].training or second.training)
    assert first.training and first[0].training and not second.training


def test_words_of_a_checkpoint():
    model = tiny_model()
    assert model.known_vocabulary() is None
    model.dataset_meta = dict(classes=('thing', 'stuff'), palette=[[0] * 3] * 2)
    assert model.known_vocabulary().names == ('thing', 'stuff')
    model.dataset_meta = dict(model.dataset_meta, vocabulary=[['animal', 'dog'], ['grass']])
    assert model.known_vocabulary().words == (('animal', 'dog'), ('grass',))
    model.set_vocabulary(CLASSES)
    assert model.known_vocabulary().names == tuple(CLASSES)


def test_a_classifier_has_them_too():
    cfg = {key: value for key, value in tiny_model_cfg(vocabulary=CLASSES).items() if key != 'type'}
    torch.manual_seed(0)
    model = PGSegClassifier(**cfg).eval()
    (named,) = copy.deepcopy(model).with_classes(OTHERS).predict(IMAGE)
    assert named.pred_score.shape == (2,)
    assert model.predict(IMAGE)[0].pred_score.shape == (4,)


@pytest.mark.parametrize('first', [True, False])
def test_words_are_embedded_in_float32_whatever_predicts_first(first):
    model = tiny_model(vocabulary=CLASSES)
    scores(model)
    expected = model.decode_head.class_embeds
    model = tiny_model(vocabulary=CLASSES)
    for half in (first, not first):
        with torch.autocast('cpu', torch.bfloat16, enabled=half):
            scores(model)
        assert torch.equal(model.decode_head.class_embeds, expected)
