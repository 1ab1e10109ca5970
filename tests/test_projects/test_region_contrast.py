"""Queries over any backbone's map learn from captions with a place."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

from pages import blocks, read_page, section
from pgseg_mm.apis import PGSegInferencer
from pgseg_mm.models.layers.regions import RegionLayout
from pgseg_mm.text import tokenize

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'projects/region_contrast/configs/query-groups_tiny-p8_emoji-scenes-64x64.py'


@pytest.fixture(scope='module')
def model():
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    cfg = Config.fromfile(CONFIG)
    cfg.model.text_encoder.num_layers = 1
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(cfg.model)


def test_queries_share_the_patches_among_them(model):
    features = model.backbone(torch.rand(2, 3, 64, 64))
    masks = features.patch_assignment()
    assert masks.shape == (2, 8, 8, 8)
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(2, 8, 8))
    assert features.tokens.shape == (2, 8, 96)


def test_regions_teach_every_part(model):
    tokens = tokenize(['a dog', 'a cat', 'grass', 'snow'], context_length=40)
    images = torch.rand(4, 3, 64, 64) * 255
    model.train().data_preprocessor.batch_augments.probs = [1.0]
    batch = model.data_preprocessor(dict(inputs=images, tokens=tokens), training=True)
    assert batch['regions'].num_regions == 2
    losses = model(**batch, mode='loss')
    model.parse_losses(losses)[0].backward()
    untaught = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # class token and the position of the class token leave the map alone; a bias under a batch
    # norm or a softmax gets no gradient
    assert [n for n in untaught if 'backbone' in n and 'bias' not in n] == []
    assert model.backbone.queries.grad.abs().sum() > 0


def test_it_segments_by_words(model):
    model.eval().set_vocabulary(['dog', 'cat', 'grass'])
    with torch.no_grad():
        (sample,) = model.predict(torch.rand(1, 3, 64, 64))
    assert sample.pred_sem_seg.data.shape == (1, 64, 64)
    assert int(sample.pred_sem_seg.data.max()) < 3


def test_its_losses_are_for_any_queries_and_masks():
    """The snippets of the README, one after another."""
    page = read_page('projects/region_contrast/README.md')
    layout = RegionLayout(torch.arange(8)[None].expand(8, -1) // 4, torch.tensor([[0, 1], [1, 2]]))
    given = {
        'queries': torch.randn(2, 5, 6, requires_grad=True),
        'masks': torch.rand(2, 5, 4, 4),
        'regions': layout,
        'captions': torch.randn(3, 6),
        'prompts': torch.randn(3, 2, 6),
    }
    losses = []
    for snippet in blocks(section(page, 'In a head of your own'), 'python'):
        exec(snippet, given)
        losses.append(given['loss'].item())
    assert len(losses) == 2 and losses[1] > losses[0] > 0
    given['loss'].backward()
    assert given['queries'].grad.abs().sum() > 0


def test_the_inferencer_takes_it(model):
    """It says nothing of the size of its images, which stay as they are."""
    inferencer = PGSegInferencer(model.eval())
    image = np.zeros((40, 56, 3), np.uint8)
    assert inferencer(image, 'dog . cat')[0].mask.shape == (40, 56)
