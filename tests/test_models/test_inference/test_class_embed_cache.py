"""Class embeddings on disk: found again, and never when they would be stale."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from mmengine.optim import OptimWrapper

from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.text import tokenize

CLASSES = ['dog', 'cat', 'grass', 'sky']
IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'cache'


def cached_model(folder, **kwargs):
    model = tiny_model(**{'class_embed_cache': str(folder), 'vocabulary': CLASSES, **kwargs})
    model.calls = []
    model.text_encoder.register_forward_pre_hook(lambda *_: model.calls.append(1))
    return model


def files(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_second_run_reads_what_the_first_one_embedded(folder):
    first = cached_model(folder)
    expected = first.predict(IMAGE)[0].pred_sem_seg.data
    assert len(first.calls) == len(files(folder)) == 1
    second = cached_model(folder)
    found = second.predict(IMAGE)[0].pred_sem_seg.data
    assert not second.calls
    assert torch.equal(found, expected)
    assert torch.equal(second.decode_head.class_embeds, first.decode_head.class_embeds)
    assert torch.equal(second.decode_head.class_index, first.decode_head.class_index)


def test_nothing_is_written_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tiny_model(vocabulary=CLASSES).predict(IMAGE)
    assert not list(tmp_path.iterdir())


def with_heads(num_heads) -> dict:
    return {**tiny_model_cfg()['text_encoder'], 'num_heads': num_heads}


@pytest.mark.parametrize(
    'other',
    [
        dict(vocabulary=['dog', 'cat', 'grass', 'the sky']),
        dict(vocabulary=['cat', 'dog', 'grass', 'sky']),
        dict(templates='subset7'),
        dict(normalize_prompts=True),
        dict(text_encoder=with_heads(2)),
        dict(text_encoder={**with_heads(None), 'context_length': 20}),
    ],
    ids=['word', 'order', 'templates', 'prompts', 'heads', 'length'],
)
def test_what_decides_the_embeddings_decides_the_entry(folder, other):
    cached_model(folder).predict(IMAGE)
    model = cached_model(folder, **other)
    model.predict(IMAGE)
    assert model.calls
    assert len(files(folder)) == 2


def test_another_tokenizer_is_another_entry(folder):
    cached_model(folder).predict(IMAGE)
    model = cached_model(folder)
    plain = model.text_encoder.tokenize
    model.text_encoder.tokenize = lambda texts: plain([text[::-1] for text in texts])
    model.predict(IMAGE)
    assert model.calls and len(files(folder)) == 2


def test_synonyms_of_other_classes_are_another_entry(folder, tmp_path):
    for name, text in (('a', 'dog, puppy\ncat\n'), ('b', 'dog\npuppy, cat\n')):
        (tmp_path / name).write_text(text)
        model = cached_model(folder, vocabulary=str(tmp_path / name))
        model.predict(IMAGE)
    assert len(files(folder)) == 2
    assert model.decode_head.class_index.tolist() == [0, 1, 1]


def change_running_mean(model):
    model.decode_head.text_projector.norm.running_mean += 1e-3


@pytest.mark.parametrize(
    'change',
    [
        lambda model: model.text_encoder.token_embedding.weight.data[9, 9].add_(1e-3),
        lambda model: model.decode_head.text_projector.fc2.bias.data[0].add_(1e-3),
        change_running_mean,
        lambda model: model.double(),
    ],
    ids=['one weight', 'projector', 'statistics', 'type'],
)
def test_any_text_weight_decides_the_entry(folder, change):
    cached_model(folder).predict(IMAGE)
    model = cached_model(folder)
    change(model)
    model.predict(IMAGE.to(next(model.parameters()).dtype))
    assert model.calls
    assert len(files(folder)) == 2


def test_image_weights_do_not(folder):
    cached_model(folder).predict(IMAGE)
    model = cached_model(folder)
    with torch.no_grad():
        model.backbone.norm.weight.mul_(2)
        model.decode_head.image_projector.fc2.weight.mul_(2)
    model.predict(IMAGE)
    assert not model.calls


def test_an_entry_is_stale_after_one_training_step(folder):
    model = cached_model(folder)
    model.predict(IMAGE)
    before = model.decode_head.class_embeds.clone()
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    batch = dict(inputs=torch.rand(3, 3, 32, 32), tokens=tokenize(['a dog', 'a cat', 'grass'], 16))
    model.train()
    model.train_step(batch, optimizer)
    model.eval().predict(IMAGE)
    assert len(files(folder)) == 2
    assert not torch.allclose(model.decode_head.class_embeds, before)
    fresh = model.embed_words(CLASSES)
    torch.testing.assert_close(model.decode_head.class_embeds, fresh)


def test_a_damaged_entry_is_embedded_anew(folder):
    cached_model(folder).predict(IMAGE)
    (path,) = folder.iterdir()
    path.write_bytes(b'not what it was')
    model = cached_model(folder)
    model.predict(IMAGE)
    assert model.calls
    model = cached_model(folder)
    model.predict(IMAGE)
    assert not model.calls


def test_several_models_share_a_folder_at_once(folder):
    models = [cached_model(folder) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda model: model.predict(IMAGE), models))
    assert len(files(folder)) == 1
    for model in models[1:]:
        torch.testing.assert_close(
            model.decode_head.class_embeds, models[0].decode_head.class_embeds
        )


def test_the_folder_may_be_in_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    cached_model('~/cache').predict(IMAGE)
    assert len(os.listdir(tmp_path / 'cache')) == 1
