"""The training-free baselines on CLIP: what their configs say, and a benchmark with each."""

import re
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from mmengine.config import Config
from mmseg.registry import MODELS

from benchmark_zoo import BENCHMARKS, ROOT, run_test_tool
from tiny_open_clip import CLIP, VISION, add_tiny_models, reference_model

FOLDER = ROOT / 'configs' / 'clip'
CONFIGS = sorted(FOLDER.glob('*.py'))
METHODS = {
    'clip': dict(attention='clip', pos_embed='offset'),
    'maskclip': dict(attention='maskclip', pos_embed='size'),
    'sclip': dict(attention='sclip', pos_embed='offset'),
    'clearclip': dict(attention='clearclip', pos_embed='offset'),
    'naclip': dict(attention='naclip', pos_embed='offset', gaussian_std=5.0),
}
NAME = 'tiny-dense'


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> Path:
    """A tiny CLIP that open_clip knows, and a file of its weights."""
    vision = {**VISION, 'patch_size': 8, 'layers': 2}
    kind = {'text_cfg': CLIP, 'vision_cfg': vision, 'quick_gelu': True}
    add_tiny_models(tmp_path_factory.mktemp('models'), **{NAME: kind})
    path = tmp_path_factory.mktemp('weights') / 'tiny.pt'
    torch.save(reference_model(NAME).state_dict(), path)
    return path


def small(weights: Path) -> dict:
    """What makes a config small."""
    return {
        **{
            f'model.{part}.{key}': value
            for part in ('backbone', 'text_encoder')
            for key, value in (('model_name', NAME), ('pretrained', str(weights)))
        },
        'model.decode_head.in_channels': 24,
        'model.test_cfg.crop_size': (32, 32),
        'model.test_cfg.stride': (16, 16),
        'model.templates': 'simple',
    }


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_each_config_is_a_method_on_one_tower_for_images_and_texts(path):
    cfg = Config.fromfile(path)
    method, _, tower = path.stem.partition('_')
    assert tower == 'vit-base-p16'
    backbone, text_encoder = cfg.model.backbone, cfg.model.text_encoder
    kept = {key: backbone[key] for key in METHODS[method]}
    assert kept == METHODS[method]
    assert backbone.keys() == {'type', 'model_name', 'pretrained', *kept}  # nothing is refined
    for key in ('model_name', 'pretrained'):
        assert backbone[key] == text_encoder[key]
    tag = open_clip.get_pretrained_cfg(backbone.model_name, backbone.pretrained)
    assert tag['quick_gelu']  # OpenAI's weights need it
    mean, std = (cfg.model.data_preprocessor[key] for key in ('mean', 'std'))
    assert [x / 255 for x in mean] == pytest.approx(tag['mean'], abs=1e-5)
    assert [x / 255 for x in std] == pytest.approx(tag['std'], abs=1e-5)
    width = open_clip.get_model_config(backbone.model_name)['embed_dim']
    assert cfg.model.decode_head.in_channels == width


def test_all_methods_are_there_and_listed():
    stems = [path.stem for path in CONFIGS]
    assert sorted(stem.partition('_')[0] for stem in stems) == sorted(METHODS)
    readme = (FOLDER / 'README.md').read_text(encoding='utf-8')
    table = re.findall(r'^\| \[`([^`]+)\.py`\]\(([^)]+)\.py\)', readme, re.M)
    assert sorted(table) == [(stem, stem) for stem in stems]
    meta = yaml.safe_load((FOLDER / 'metafile.yml').read_text())
    collections = {collection['Name']: collection for collection in meta['Collections']}
    for path, model in zip(CONFIGS, sorted(meta['Models'], key=lambda m: m['Name']), strict=True):
        assert (model['Name'], model['Config']) == (path.stem, f'configs/clip/{path.name}')
        assert model['In Collection'].lower() == path.stem.partition('_')[0]
        paper = collections[model['In Collection']]['Paper']['URL']
        number = paper.rpartition('/')[2]
        config_says = path.read_text().partition('\n')[0]
        assert f'arXiv {number}' in config_says and paper in readme


@torch.no_grad()
def test_methods_see_the_same_image_differently_and_prototypes_are_an_option(weights):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 40, 56)
    scores = {}
    for path in CONFIGS:
        cfg = Config.fromfile(path)
        cfg.merge_from_dict({**small(weights), 'model.class_embed_cache': None})
        model = MODELS.build(cfg.model).eval()
        assert not any(parameter.requires_grad for parameter in model.parameters())
        model.set_vocabulary(['dog', 'cat', 'red car'])
        results = model.predict(images)
        assert [result.pred_sem_seg.data.shape for result in results] == [(1, 40, 56)] * 2
        scores[path.stem] = model.encode_decode(images, [dict(img_shape=(40, 56))])
        refine = {'model.backbone.refine.type': 'PrototypeRefinement'}
        cfg.merge_from_dict({**refine, 'model.backbone.refine.num_prototypes': 4})
        refined = MODELS.build(cfg.model).eval()
        refined.set_vocabulary(['dog', 'cat', 'red car'])
        mixed = refined.encode_decode(images, [dict(img_shape=(40, 56))])
        assert not torch.allclose(mixed, scores[path.stem], atol=1e-4)
    assert len(scores) == 5
    for first in scores:
        others = [other for other in scores if other != first]
        assert not any(torch.allclose(scores[first], scores[o], atol=1e-4) for o in others)


def test_a_benchmark_without_training(weights, tmp_path, monkeypatch):
    """The command of the README, on Pascal VOC in small."""
    BENCHMARKS[1].write(tmp_path / 'data')
    monkeypatch.setenv('PGSEG_DATA_ROOT', str(tmp_path / 'data'))
    monkeypatch.chdir(tmp_path)
    options = ['test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False']
    options += [f'{key}={value!r}'.replace(' ', '') for key, value in small(weights).items()]
    config = FOLDER / 'naclip_vit-base-p16.py'
    result = run_test_tool(config, 'none', tmp_path / 'work', '--allow-partial', options=options)
    assert result.areas.label.sum() > 0 and (result.areas.prediction > 0).sum() > 1
    assert 0 <= result.metrics['mIoU'] <= 100
