"""Every variant of NPR is a model that can be built, and another than the others."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

from benchmarks.npr_variants import VARIANTS
from pages import ROOT
from pgseg_mm.models.layers.regions import RegionLayout

CONFIG = ROOT / 'configs/pgseg/pgseg_tiny-p8_emoji-scenes-64x64.py'


@pytest.mark.parametrize('name', VARIANTS)
def test_a_variant_trains_its_groups_by_prototypes_unless_it_has_none(name):
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(VARIANTS[name])
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        backbone = MODELS.build(cfg.model.backbone)
        head = MODELS.build(cfg.model.decode_head)
    labels = torch.zeros(64, 64, dtype=torch.long)
    labels[16:48, 16:48] = 1
    layout = RegionLayout(labels, torch.tensor([[0, 1], [1, 0]]))
    features = backbone.train()(torch.rand(2, 3, 64, 64), None, layout)
    pairs = head.start_npr(features)
    assert len(pairs) == (name != 'no NPR')
    assert (head.text_prototypes is None) == ('T-NPR' not in name)
    if pairs:
        sum(head.loss_npr.finish(pairs)).backward()
        assert backbone.patch_embed.weight.grad.any()


def test_no_two_variants_are_the_same():
    found = [sorted((k, str(v)) for k, v in options.items()) for options in VARIANTS.values()]
    assert all(options not in found[:i] for i, options in enumerate(found))
