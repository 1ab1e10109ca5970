"""DenseCLIPHead: cosines of patches and words."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from pgseg_mm.models import DenseCLIPHead, PGSegHead
from pgseg_mm.models.inference.class_embedder import ClassEmbedder
from pgseg_mm.models.text_encoders import TextFeatures
from pgseg_mm.text.vocabulary import Vocabulary

IMAGES, WIDTH, GRID = 2, 6, (3, 5)


def head(**kwargs) -> DenseCLIPHead:
    return DenseCLIPHead(in_channels=WIDTH, **kwargs).eval()


def maps() -> tuple[torch.Tensor]:
    torch.manual_seed(0)
    return (torch.randn(IMAGES, WIDTH, *GRID),)


def embeds(number: int) -> torch.Tensor:
    return torch.randn(number, WIDTH, generator=torch.Generator().manual_seed(1))


def cosines(features: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    return F.cosine_similarity(features[:, None], words[None, :, :, None, None], dim=2)


def test_scores_are_cosines_whatever_the_lengths():
    model, (features,) = head(class_embeds=3 * embeds(4)), maps()
    expected = cosines(features, embeds(4))
    torch.testing.assert_close(model.dense_scores((features,)), expected)
    torch.testing.assert_close(model(('ignored', 7 * features)), expected)
    assert (model.num_classes, model.out_channels, model.with_background) == (4, 4, False)
    assert model.scores_pixels and not list(model.state_dict())


def test_a_class_scores_as_its_best_word():
    model, (features,) = head(), maps()
    model.set_class_embeds(embeds(5), [0, 2, 1, 2, 0])
    words = cosines(features, embeds(5))
    expected = torch.stack([words[:, [0, 4]].amax(1), words[:, 2], words[:, [1, 3]].amax(1)], dim=1)
    torch.testing.assert_close(model.dense_scores((features,)), expected)
    assert model.num_classes == 3


def test_background_is_what_no_word_fits():
    model, (features,) = head(class_embeds=embeds(3), background_threshold=0.4), maps()
    foreground = cosines(features, embeds(3))
    best = foreground.amax(1)
    scores = model.dense_scores((features,))
    assert (model.num_classes, scores.shape) == (4, (IMAGES, 4, *GRID))
    torch.testing.assert_close(scores[:, 1:], foreground)
    assert torch.equal(scores[:, 0], (best < 0.4).float())
    assert 0 < scores[:, 0].mean() < 1
    # from one encoding, and with a threshold above all scores of a window
    several = model.dense_scores((features,), thresholds=[0.2, 0.99])
    assert torch.equal(several[:, 0], (best < 0.2).float())
    assert torch.equal(several[:, 1], (best < best.amax(dim=(1, 2), keepdim=True)).float())
    torch.testing.assert_close(several[:, 2:], foreground)


def test_half_precision_is_compared_in_float32():
    model, (features,) = head(class_embeds=embeds(3)), maps()
    with torch.autocast('cpu', torch.bfloat16):
        scores = model.dense_scores((features.bfloat16(),))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, cosines(features.bfloat16().float(), embeds(3)))


def test_words_are_embedded_as_for_the_other_head():
    class Letters(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Parameter(embeds(128))

        def tokenize(self, texts):
            return torch.tensor([[ord(text[0]), ord(text[-1])] for text in texts])

        def forward(self, tokens):
            return TextFeatures(self.table[tokens].sum(1), self.table[tokens], tokens > 0)

    words = Vocabulary((('background',), ('dog', 'hound'), ('cat',)))
    others = PGSegHead(WIDTH, WIDTH, WIDTH, hidden_channels=None, background_threshold=0.4)
    ours = head(background_threshold=0.4)
    for model in (ours, others):
        ClassEmbedder(Letters(), model.text_projector, ['{}', 'a {}']).update(model, words)
    assert torch.equal(ours.class_embeds, others.class_embeds)
    assert ours.class_index.tolist() == others.class_index.tolist() == [0, 0, 1]
    assert (ours.text_channels, ours.channels) == (WIDTH, WIDTH)


def test_classes_from_a_file_in_mmsegs_segmentor(tmp_path):
    np.save(tmp_path / 'words.npy', embeds(3).numpy())
    cfg = dict(
        type='EncoderDecoder',
        backbone=dict(type='ResNetV1c', depth=18, num_stages=1, strides=(1,), dilations=(1,)),
        decode_head=dict(type='DenseCLIPHead', in_channels=WIDTH, in_index=0),
        test_cfg=dict(mode='whole'),
    )
    cfg['backbone'].update(out_indices=(0,), base_channels=WIDTH)
    cfg['decode_head']['class_embeds'] = str(tmp_path / 'words.npy')
    model = MODELS.build(ConfigDict(cfg)).eval()
    image = torch.randn(1, 3, 32, 48)
    meta = dict(img_shape=(32, 48), ori_shape=(32, 48))
    with torch.no_grad():
        (result,) = model.predict(image, [SegDataSample(metainfo=meta)])
        (features,) = model.extract_feat(image)
    expected = F.interpolate(cosines(features, embeds(3)), (32, 48), mode='bilinear')
    torch.testing.assert_close(result.seg_logits.data, expected[0], atol=1e-5, rtol=1e-4)


def test_errors_say_what_to_do():
    with pytest.raises(RuntimeError, match='DenseCLIPHead has no classes: give a vocabulary'):
        head()(maps())
    with pytest.raises(ValueError, match=r'must be of shape \(classes, 6\), got \(3, 5\)'):
        head().set_class_embeds(torch.zeros(3, 5))
    with pytest.raises(ValueError, match='background_threshold must be None or positive'):
        head(background_threshold=0)
    with pytest.raises(ValueError, match='no logit for a background found by threshold'):
        head(class_embeds=embeds(2), background_threshold=0.1).loss(maps(), [], {})
