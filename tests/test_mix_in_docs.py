"""What docs/mix_in.md shows is built and trained a step, and it lists every project."""

import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from model_zoo import tiny_model, tiny_model_cfg
from pages import ROOT, blocks, read_page
from pgseg_mm.models import PGSegViT
from pgseg_mm.text import tokenize
from tiny_open_clip import add_tiny_models

PAGE = read_page('docs/mix_in.md')


def mixed_in(block: str, scope: str) -> Config:
    """The config of a snippet in a project of the library that has the scope."""
    head = f"custom_imports = dict(imports=['pgseg_mm'])\ndefault_scope = '{scope}'\n"
    return Config.fromstring(head + block, '.py')


@pytest.mark.parametrize('number', [0, 1])
def test_mixed_in_models(number, tmp_path, monkeypatch):
    block = [b for b in blocks(PAGE, 'python') if 'EncoderDecoder' in b][number]
    monkeypatch.chdir(tmp_path)
    np.save('class_embeds.npy', np.random.default_rng(0).normal(size=(5, 256)))
    model = MODELS.build(mixed_in(block, 'mmseg').model).eval()
    with torch.no_grad():
        out = model.predict(torch.rand(1, 3, 64, 96))
    assert out[0].pred_sem_seg.data.shape == (1, 64, 96)
    labels = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(5, (1, 64, 96))))
    losses = model.train().loss(torch.rand(2, 3, 64, 96), [labels, labels])
    losses['decode.loss_ce'].backward()
    assert model.backbone.patch_embed.weight.grad.abs().sum() > 0


def test_head_on_another_encoder(tmp_path):
    add_tiny_models(tmp_path)
    cfg = mixed_in(
        next(b for b in blocks(PAGE, 'python') if 'OpenCLIPGroupViT' in b), 'mmseg'
    ).model
    for part in (cfg.backbone, cfg.text_encoder):
        assert part.pretrained == 'openai'
        part.update(model_name='tiny-clip-quickgelu', pretrained=None)
    cfg.decode_head.update(in_channels=24, channels=24, text_channels=24)
    cfg.test_cfg.update(crop_size=(32, 32), stride=(16, 16), seg_logits=True)
    model = MODELS.build(cfg).eval()
    model.set_vocabulary(['dog', 'red car', 'grass'])
    with torch.no_grad():
        out = model.predict(torch.rand(1, 3, 32, 64))
    assert out[0].seg_logits.data.shape == (3, 32, 64)
    assert out[0].pred_sem_seg.data.shape == (1, 32, 64)
    assert out[0].seg_logits.data.std() > 0


def test_npr_loss_of_queries():
    block = next(b for b in blocks(PAGE, 'python') if 'loss_npr = dict(' in b)
    loss_npr = MODELS.build(mixed_in(block, 'mmseg').loss_npr)
    queries = torch.randn(2, 19, 384, requires_grad=True)
    loss = loss_npr(torch.randn(2, 50, 384), queries)
    loss.backward()
    assert loss > 0 and queries.grad.abs().sum() > 0


def test_backbone_in_the_scope_of_mmpretrain():
    from mmpretrain.structures import DataSample

    cfg = mixed_in(next(b for b in blocks(PAGE, 'python') if 'ImageClassifier' in b), 'mmpretrain')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = ROOT_MODELS.build(cfg.model).train()
    assert isinstance(model.backbone, PGSegViT)
    labels = [DataSample().set_gt_label(label) for label in (3, 5)]
    model.loss(torch.rand(2, 3, 64, 96), labels)['loss'].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {'head.fc.weight', 'head.fc.bias'}


def test_every_project_is_listed_and_every_snippet_is_built_here():
    listed = re.findall(r'^\| \[(\w+)\]\(../projects/(\w+)/README.md\)', PAGE, re.MULTILINE)
    projects = {path.parent.name for path in (ROOT / 'projects').glob('*/README.md')}
    assert {name for pair in listed for name in pair} == projects
    assert len(blocks(PAGE, 'python')) == 7


def test_npr_of_ones_own(monkeypatch):
    block = next(b for b in blocks(PAGE, 'python') if 'NearestNPR' in b)
    monkeypatch.setattr(MODELS, '_module_dict', dict(MODELS.module_dict))
    exec(block, {'__name__': 'mine'})
    head = tiny_model_cfg()['decode_head']
    head['loss_npr'] = {**head['loss_npr'], 'type': 'NearestNPR'}
    model = tiny_model(decode_head=head).train()
    tokens = tokenize(['a dog', 'grass'], context_length=16)
    losses = model(torch.rand(2, 3, 32, 48), tokens=tokens, mode='loss')
    total = sum(loss for name, loss in losses.items() if name.startswith('loss_npr'))
    total.backward()
    assert total > 0 and model.backbone.patch_embed.weight.grad.abs().sum() > 0


def test_backbone_of_ones_own(monkeypatch):
    block = next(b for b in blocks(PAGE, 'python') if 'GroupFeatures(' in b)
    monkeypatch.setattr(MODELS, '_module_dict', dict(MODELS.module_dict))
    exec(block, {'__name__': 'mine'})
    backbone = dict(type='PatchesInGroups', channels=24)
    head = tiny_model_cfg()['decode_head'] | dict(loss_npr=None)
    model = tiny_model(backbone=backbone, decode_head=head)
    images = torch.rand(2, 3, 32, 48)
    tokens = tokenize(['a dog', 'grass'], context_length=16)
    total, _ = model.parse_losses(model.train()(images, tokens=tokens, mode='loss'))
    total.backward()
    assert model.backbone.queries.grad.abs().sum() > 0
    model.eval().set_vocabulary(['dog', 'grass'])
    with torch.no_grad():
        (sample,) = model.predict(images[:1])
    assert sample.pred_sem_seg.data.shape == (1, 32, 48)
