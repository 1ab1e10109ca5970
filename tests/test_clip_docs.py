"""docs/clip.md: what it names exists, and what it shows works."""

import json

import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS

from page_checks import is_in_module, named_in_code, prose, unknown_calls
from pages import ROOT, blocks, read_page
from pgseg_mm.models import CLIPDenseViT, PrototypeRefinement
from pgseg_mm.models.layers import PATCH_ATTENTIONS

PAGE = ROOT / 'docs' / 'clip.md'
TEXT = read_page('docs/clip.md')


@pytest.fixture
def name(tmp_path) -> str:
    """Of a tiny model in a folder."""
    vision = {'image_size': 32, 'patch_size': 8, 'layers': 2, 'width': 32, 'head_width': 16}
    config = {'model_cfg': {'embed_dim': 24, 'vision_cfg': vision, 'text_cfg': {}}}
    (tmp_path / 'open_clip_config.json').write_text(json.dumps(config))
    return f'local-dir:{tmp_path}'


def test_what_the_page_names_is_in_the_code():
    named = named_in_code(PAGE)
    assert len(named) >= 5
    assert [(name, file) for name, file in named if not is_in_module(name, file)] == []
    assert unknown_calls(prose(PAGE)) == []


def test_the_table_has_every_method_and_what_it_does_by_default():
    rows = [line.split('|')[1:-1] for line in TEXT.splitlines() if line.startswith('| `')]
    methods = {cells[0].strip(' `'): cells for cells in rows if len(cells) == 4}
    del methods['attention']  # the heading
    assert methods.keys() == PATCH_ATTENTIONS.keys()
    for method, cells in methods.items():
        attention = PATCH_ATTENTIONS[method]
        assert cells[3].strip() == ('whole' if attention.residual else 'attention alone')
        assert ('s = 5' in cells[2]) == (attention.gaussian_std == 5.0)


@torch.no_grad()
def test_a_method_of_ones_own_becomes_an_entry(name, monkeypatch):
    _, own, _, _ = blocks(TEXT, 'python')
    monkeypatch.setattr('pgseg_mm.models.layers.PATCH_ATTENTIONS', dict(PATCH_ATTENTIONS))
    namespace: dict = {}
    exec(own, namespace)
    monkeypatch.setitem(PATCH_ATTENTIONS, 'vv', namespace['PATCH_ATTENTIONS']['vv'])
    images = torch.randn(1, 3, 24, 40)
    (values,) = CLIPDenseViT(name, attention='vv').eval()(images)
    assert values.shape == (1, 24, 3, 5) and values.isfinite().all()


def test_the_option_of_prototypes_is_one_of_the_backbone(name):
    _, _, _, option = blocks(TEXT, 'python')
    cfg = Config.fromstring(option, '.py').backbone
    refine = CLIPDenseViT(name, **cfg).refine
    assert isinstance(refine, PrototypeRefinement) and refine.num_prototypes == 16


@torch.no_grad()
def test_the_other_backbone_is_one_of_mmpretrain(name):
    _, _, option, _ = blocks(TEXT, 'python')
    cfg = Config.fromstring(option, '.py').backbone
    assert cfg.proxy.patch_size == 8 and len(cfg.proxy_mean) == len(cfg.proxy_std) == 3
    tiny = dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=24)
    cfg.proxy.update(arch=tiny, img_size=32)
    backbone = MODELS.build({**cfg, 'model_name': name}).train()
    assert not backbone.proxy.training and not any(p.requires_grad for p in backbone.parameters())
    (features,) = backbone(torch.randn(1, 3, 24, 40))
    assert features.shape == (1, 24, 3, 5) and features.isfinite().all()
