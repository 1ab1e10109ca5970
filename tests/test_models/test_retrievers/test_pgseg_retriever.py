"""Embeddings of images and captions, for retrieval."""

import json
from importlib import import_module

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from mmseg.registry import DATASETS, MODELS
from PIL import Image

from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.models import PGSegRetriever

CAPTIONS = [['a dog runs', 'two {dogs}'], ['a cat']]


@pytest.fixture(scope='module')
def model() -> PGSegRetriever:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):  # it comes before the tests' own
        return MODELS.build({**tiny_model_cfg(), 'type': 'PGSegRetriever'}).eval()


def samples() -> list[DataSample]:
    return [DataSample(text=text) for text in CAPTIONS]


@torch.no_grad()
def test_embeddings_are_those_that_training_compares(model):
    """Their scaled products are the logits of the contrast."""
    images = torch.randn(2, 3, 32, 32)
    first, second = model.predict(images, samples())
    features = model.extract_feat(images)
    firsts = [some[0] for some in CAPTIONS]
    texts = model.text_encoder(model.text_encoder.tokenize(firsts))
    loss = model.decode_head.loss_image_text(features, texts)['loss_contrastive']
    embeds = torch.stack([first.image_embeds, second.image_embeds])
    words = torch.stack([first.text_embeds[0], second.text_embeds[0]])
    logits = embeds @ words.T / 0.07
    both = [torch.nn.functional.cross_entropy(x, torch.arange(2)) for x in (logits, logits.T)]
    torch.testing.assert_close(loss, sum(both) / 2)
    assert (first.text_embeds.shape, second.text_embeds.shape) == ((2, 20), (1, 20))
    torch.testing.assert_close(first.text_embeds.norm(dim=1), torch.ones(2))


@torch.no_grad()
def test_images_may_be_of_several_sizes_and_a_caption_one_string(model):
    images = [torch.randn(3, 32, 32), torch.randn(3, 40, 24)]
    both = model.predict(images, [DataSample(text='a dog'), DataSample(text=['a dog'])])
    for sample, image in zip(both, images, strict=True):
        (alone,) = model.predict(image[None], [DataSample(text='a dog')])
        torch.testing.assert_close(sample.image_embeds, alone.image_embeds)
    torch.testing.assert_close(both[0].text_embeds, both[1].text_embeds)


@pytest.mark.parametrize('given', [None, [DataSample()], [DataSample(text=[])]])
def test_refuses_images_without_captions(model, given):
    with pytest.raises(ValueError, match='retrieval needs the captions of each image'):
        model.predict(torch.zeros(1, 3, 32, 32), given)


def test_weights_are_those_of_the_segmentor(model):
    assert model.state_dict().keys() == tiny_model().state_dict().keys()


def test_tensor_mode_gives_embeddings_of_images(model):
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        embeds = model(images)
        expected = torch.stack([s.image_embeds for s in model.predict(images, samples())])
    torch.testing.assert_close(embeds, expected)


@torch.no_grad()
def test_sets_of_mmpretrain_for_retrieval_fit(model, tmp_path):
    """Flickr30k's annotations, in their own format."""
    entries = []
    for number, texts in enumerate(CAPTIONS):
        Image.fromarray(np.full((32, 32, 3), 90 * number, np.uint8)).save(
            tmp_path / f'{number}.jpg'
        )
        sentences = [dict(raw=text, imgid=number, sentid=n) for n, text in enumerate(texts)]
        entries.append(
            dict(imgid=number, filename=f'{number}.jpg', split='test', sentences=sentences)
        )
    (tmp_path / 'dataset.json').write_text(json.dumps(dict(images=entries)))
    # mmpretrain registers it beside its multimodal models alone
    flickr30k = import_module('mmpretrain.datasets.flickr30k_retrieval')
    dataset = DATASETS.build(
        dict(
            type=flickr30k.Flickr30kRetrieval,
            data_root=str(tmp_path),
            data_prefix='',
            ann_file='dataset.json',
            split='test',
            test_mode=True,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='PackInputs', algorithm_keys=('text',), _scope_='mmpretrain'),
            ],
        )
    )
    found = model.test_step(pseudo_collate([dataset[0], dataset[1]]))
    assert [len(sample.text_embeds) for sample in found] == [2, 1]
