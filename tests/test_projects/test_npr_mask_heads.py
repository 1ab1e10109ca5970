"""NPR of the queries of mmseg's MaskFormer and Mask2Former, which need mmdetection."""

import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from pages import blocks
from pgseg_mm.cli.config_files import read_config_file
from supervised_zoo import losses, metric, small_config, trained, without_gradient, write_ade20k

PROJECT = Path(__file__).parents[2] / 'projects' / 'npr_auxiliary'
WIDTHS = [64, 128, 256, 512]
HEADS = ('MaskFormer', 'Mask2Former')

pytestmark = pytest.mark.skipif(
    find_spec('mmdet') is None or find_spec('mmcv._ext') is None,
    reason='needs mmdetection, and mmcv with compiled operations, which mmdetection imports',
)


@pytest.fixture(autouse=True)
def _project():
    """The project's modules, as tools/train.py makes them importable."""
    read_config_file(str(next((PROJECT / 'configs').glob('*.py'))))


def config_of(head: str, folder: Path) -> Path:
    """The README's config, over mmseg's of the head."""
    snippets = blocks((PROJECT / 'README.md').read_text(encoding='utf-8'), 'python')
    (block,) = (text for text in snippets if text.startswith('_base_ = '))
    base = {
        'MaskFormer': 'mmseg::maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py',
        'Mask2Former': 'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
    }
    assert base['MaskFormer'] in block and "'NPRMaskFormerHead'" in block
    block = block.replace(base['MaskFormer'], base[head])
    path = folder / 'mine.py'
    path.write_text(block.replace("'NPRMaskFormerHead'", f"'NPR{head}Head'"))
    return path


def small_options(head: str) -> dict:
    sizes = {'num_queries': 7, 'in_channels': WIDTHS, 'transformer_decoder.num_layers': 2}
    sizes |= {'loss_npr.begin': 0, 'loss_npr.ramp': 0}
    if head == 'Mask2Former':
        sizes |= {'pixel_decoder.encoder.num_layers': 1, 'train_cfg.num_points': 64}
    return {
        'model.backbone.depth': 18,
        'model.backbone.init_cfg': None,
        **{f'model.decode_head.{key}': value for key, value in sizes.items()},
    }


@pytest.mark.parametrize('head', HEADS)
def test_trains_and_evaluates(head, tmp_path, monkeypatch):
    write_ade20k(tmp_path / 'data')
    monkeypatch.chdir(tmp_path)
    options = {**small_options(head), 'default_hooks.checkpoint.save_best': None}
    runner = trained(small_config(config_of(head, tmp_path), options, tmp_path / 'work'))
    assert type(runner.model.decode_head).__name__ == f'NPR{head}Head'
    assert all(0 < loss < math.inf for loss in losses(runner, 'decode.loss_npr'))
    assert 0 <= metric(runner) <= 100
    assert not [name for name in without_gradient(runner) if 'npr' in name]


@pytest.mark.parametrize('head', HEADS)
def test_queries_learn_and_predictions_are_those_of_mmsegs_head(head, tmp_path):
    cfg = Config.fromfile(config_of(head, tmp_path))
    cfg.merge_from_dict(small_options(head))
    cfg.model.backbone.norm_cfg.type = 'BN'
    cfg.model.data_preprocessor = None
    with_npr = MODELS.build(cfg.model)
    cfg.model.decode_head.pop('loss_npr')
    cfg.model.decode_head.type = f'{head}Head'
    plain = MODELS.build(cfg.model)
    found = with_npr.load_state_dict(plain.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert found.missing_keys
    assert all(key.startswith('decode_head.npr.') for key in found.missing_keys)

    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        results = [model.eval().predict(images) for model in (plain, with_npr)]
    for a, b in zip(*results, strict=True):
        assert torch.equal(a.seg_logits.data, b.seg_logits.data)
    meta = dict(img_shape=(64, 64), ori_shape=(64, 64))
    labels = [PixelData(data=torch.randint(5, (1, 64, 64))) for _ in images]
    samples = [SegDataSample(metainfo=meta, gt_sem_seg=label) for label in labels]
    names = [set(model.train().loss(images, samples)) for model in (plain, with_npr)]
    assert names[1] - names[0] == {'decode.loss_npr'}
    with_npr.loss(images, samples)['decode.loss_npr'].backward()
    queries = 'query_embed' if head == 'MaskFormer' else 'query_feat'
    assert getattr(with_npr.decode_head, queries).weight.grad.abs().sum() > 0
    assert with_npr.decode_head.npr.proj.weight.grad.abs().sum() > 0
    assert with_npr.decode_head.cls_embed.weight.grad is None  # behind the queries
