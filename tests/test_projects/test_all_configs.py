"""Every config is loaded, built at reduced size and trained for a step, outside of the repository.

Configs are discovered; a project that brings a new kind of model adds how to feed it to
``make_batch``, and how to shrink its parts to ``SMALLER``.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.structures import PixelData
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample

from pgseg_mm.cli.arguments import add_launch_arguments
from pgseg_mm.cli.run_configs import load_config
from pgseg_mm.models import PGSeg
from pgseg_mm.text import tokenize

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    path.relative_to(ROOT)
    for pattern in ('configs/**/*.py', 'projects/*/configs/**/*.py')
    for path in ROOT.glob(pattern)
    if '_base_' not in path.parts and path.parent != ROOT / 'configs' / 'clip'
)
"""Without the baselines that nobody trains, which tests/test_clip_configs.py runs."""
SIZE = 64
BATCH = 2
_TRAINED: set[str] = set()


def _smaller_vit(part: ConfigDict) -> None:
    part.depths = (1,) * len(part.get('depths', (6, 3, 3)))
    if part.get('prototypes', {}) is not None:
        part.prototypes = {'hidden_channels': 64, **part.get('prototypes', {})}


def _one_layer(part: ConfigDict) -> None:
    part.num_layers = 1


def _small_canvas(part: ConfigDict) -> None:
    if part.get('size_divisor') is None:  # mmseg wants one of them in training
        part.size = (SIZE, SIZE)


def _small_pastes(part: ConfigDict) -> None:
    part.update(grid=8, sizes=(3, 4))


def _trainable(part: ConfigDict) -> None:
    if 'class_embeds' in part:  # a background found by threshold has no logit to train
        part.background_threshold = None


SMALLER: dict[str, Callable[[ConfigDict], None]] = {
    'PGSegViT': _smaller_vit,
    'PGSegTextTransformer': _one_layer,
    'VisionTransformer': _one_layer,
    'NPRSegmenterHead': _one_layer,
    'SegmenterMaskTransformerHead': _one_layer,
    'SegDataPreProcessor': _small_canvas,
    'PGSegHead': _trainable,
    'PasteImages': _small_pastes,
}


def parts_of(cfg: Any) -> Iterator[ConfigDict]:
    """All configs within a config, itself included."""
    if isinstance(cfg, dict):
        yield cfg
    for inner in cfg.values() if isinstance(cfg, dict) else cfg:
        if isinstance(inner, dict | list | tuple):
            yield from parts_of(inner)


def shrink(model: ConfigDict) -> ConfigDict:
    """The model with few layers and without weights from elsewhere; its widths stay."""
    for part in list(parts_of(model)):
        if isinstance(part.get('init_cfg'), dict) and part.init_cfg.get('type') == 'Pretrained':
            part.pop('init_cfg')
        if 'pretrained' in part:
            part.pretrained = None
        if isinstance(part.get('type'), str):
            SMALLER.get(part.type.rpartition('.')[2], lambda part: None)(part)
    return model


def make_files(cfg: Config) -> None:
    """Write what the model reads when it is built into the working directory."""
    for part in parts_of(cfg.model):
        if isinstance(part.get('class_embeds'), str):
            meta = DATASETS.get(cfg.test_dataloader.dataset.type).METAINFO
            num_classes = len(meta.get('classes', range(20)))  # emoji scenes have theirs in a file
            embeds = np.random.default_rng(0).normal(size=(num_classes, part.channels))
            np.save(part.class_embeds, embeds)


def make_batch(model: BaseModel, cfg: Config) -> dict:
    """A batch of noise, as the data loader of this kind of model gives it."""
    inputs = [torch.randint(256, (3, SIZE, SIZE), dtype=torch.uint8) for _ in range(BATCH)]
    if isinstance(model, PGSeg):
        tokens = tokenize(['a dog on the grass', 'a red car'])
        if cfg.model.decode_head.get('loss_multi_label'):
            tokens = torch.stack([tokens, tokens.flip(0)], dim=1)
        return dict(inputs=inputs, tokens=tokens, data_samples=[SegDataSample() for _ in inputs])
    if isinstance(model, BaseSegmentor):
        num_classes = model.decode_head.num_classes
        maps = [torch.randint(num_classes, (1, SIZE, SIZE)) for _ in inputs]
        meta = dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE))
        samples = [SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=x)) for x in maps]
        return dict(inputs=inputs, data_samples=samples)
    from mmpretrain.models import ImageClassifier
    from mmpretrain.structures import DataSample

    if isinstance(model, ImageClassifier):
        samples = [DataSample().set_gt_label(label) for label in range(BATCH)]
        return dict(inputs=inputs, data_samples=samples)
    raise TypeError(f'make_batch does not know what {type(model).__name__} is trained with')


def make_optimizer(model: BaseModel, cfg: Config) -> Any:
    """The config's optimizer in float32, or a plain one for a model that is evaluated only."""
    optim_wrapper = cfg.get('optim_wrapper', dict(optimizer=dict(type='SGD', lr=0.1)))
    dropped = ('type', 'dtype', 'loss_scale')
    settings = {key: value for key, value in optim_wrapper.items() if key not in dropped}
    return build_optim_wrapper(model, ConfigDict(settings, type='OptimWrapper'))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A working directory and an import path without the repository, and a scope that ends."""
    monkeypatch.chdir(tmp_path)
    outside = [entry for entry in sys.path if entry and Path(entry).resolve() != ROOT]
    monkeypatch.setattr(sys, 'path', outside)
    scopes = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(scopes)


def read(path: Path) -> Config:
    """The config as tools/train.py reads it."""
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    add_launch_arguments(parser)
    return load_config(parser.parse_args([str(ROOT / path)]))


def test_configs_are_found():
    assert {path.parts[0] for path in CONFIGS} == {'configs', 'projects'}
    for project in (ROOT / 'projects').iterdir():
        if project.is_dir() and project.name != '__pycache__':
            assert (project / 'README.md').is_file()
            assert any(path.parts[1] == project.name for path in CONFIGS), project.name


@pytest.mark.parametrize('path', CONFIGS, ids=str)
def test_config_trains_a_step(path):
    cfg = read(path)
    init_default_scope(cfg.default_scope)
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    shrink(cfg.model)
    if repr(cfg.model) in _TRAINED:
        return  # a variation of data or schedule alone
    make_files(cfg)
    augments = (cfg.model.data_preprocessor or {}).get('batch_augments')
    if augments:  # by no chance a step whose images stay whole
        augments.probs = [prob / sum(augments.probs) for prob in augments.probs]
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).train()
    optim_wrapper = make_optimizer(model, cfg)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    joined = []
    model.data_preprocessor.register_forward_hook(lambda _, args, out: joined.append(out))
    log = model.train_step(make_batch(model, cfg), optim_wrapper)
    if augments:
        assert joined[0]['regions'].num_regions > 1
    assert torch.isfinite(log['loss'])
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved or 'optim_wrapper' not in cfg  # a baseline without training may be all frozen
    assert all(model.get_parameter(name).requires_grad for name in moved)
    _TRAINED.add(repr(cfg.model))


def test_a_kind_of_model_that_cannot_be_fed_is_named():
    with pytest.raises(TypeError, match='does not know what Unheard is trained with'):
        make_batch(type('Unheard', (torch.nn.Module,), {})(), Config())
