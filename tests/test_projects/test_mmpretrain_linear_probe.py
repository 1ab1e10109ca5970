"""The backbone as part of mmpretrain's and mmdetection's models, by registry scope."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import Runner
from mmengine.utils import get_installed_path
from PIL import Image

from pgseg_mm.models import PGSegViT
from prepared_processes import run_python

ROOT = Path(__file__).parents[2]
CONFIG = (
    ROOT / 'projects/mmpretrain_linear_probe/configs'
    '/pgseg_vit-small-p16_8xb512-linear-coslr-90e_in1k.py'
)
SMALL_BACKBONE = dict(
    img_size=32,
    patch_size=8,
    embed_dims=24,
    depths=(1, 1, 1),
    num_heads=3,
    num_group_tokens=(6, 3, 0),
    num_output_groups=(6, 3),
    prototypes=dict(hidden_channels=16),
)
COLOURS = {'n01440764': (220, 30, 30), 'n01443537': (30, 30, 220)}


@pytest.fixture(autouse=True)
def own_scope():
    """What another library's scope leaves behind ends with the test."""
    instances = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(instances)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with images of two colours in ImageNet's layout, and weights."""
    random = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name, colour in COLOURS.items():
            place = tmp_path / 'data' / 'imagenet' / split / name
            place.mkdir(parents=True)
            for i in range(8):
                noise = random.integers(-30, 30, (40, 48, 3))
                image = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(image).save(place / f'{i}.png')
    torch.manual_seed(0)  # not every random backbone tells two colours apart
    backbone = PGSegViT(**SMALL_BACKBONE)
    state = {f'backbone.{name}': value for name, value in backbone.state_dict().items()}
    torch.save({'state_dict': {**state, 'text_encoder.weight': torch.zeros(1)}}, tmp_path / 'w.pth')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small_options() -> dict:
    """Settings that make the published size a matter of seconds."""
    loaders = {
        f'{split}_dataloader.{key}': value
        for split in ('train', 'val', 'test')
        for key, value in {
            'batch_size': 8,
            'num_workers': 0,
            'persistent_workers': False,
            'dataset.metainfo': dict(classes=list(COLOURS)),
        }.items()
    }
    return {
        **{f'model.backbone.{key}': value for key, value in SMALL_BACKBONE.items()},
        **loaders,
        'model.backbone.init_cfg.checkpoint': 'w.pth',
        'model.neck.1.input_features': 24,
        'model.head.in_channels': 24,
        'train_dataloader.dataset.pipeline.1.scale': 32,
        'train_cfg.max_epochs': 4,
        'optim_wrapper.optimizer.type': 'SGD',
        'optim_wrapper.optimizer.lr': 0.5,
        'param_scheduler': [],
        'work_dir': 'work',
        'randomness.seed': 0,
    }


def test_linear_probe_trains_the_head_alone_and_counts_hits(folder):
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(small_options())
    runner = Runner.from_cfg(cfg)
    runner.train()
    backbone = runner.model.backbone
    assert isinstance(backbone, PGSegViT)
    loaded = torch.load('w.pth')['state_dict']
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, loaded[f'backbone.{name}']), f'{name} has moved'
    trained = {name for name, p in runner.model.named_parameters() if p.requires_grad}
    assert trained == {'head.fc.weight', 'head.fc.bias'}
    accuracy = runner.test()
    assert accuracy['accuracy/top1'] == 100  # 50 by chance, 0.1 untrained
    assert len(list(Path('work').glob('best_accuracy_top1_*.pth'))) == 1


def test_tool_of_mmpretrain_trains_it(folder):
    """As a user of mmpretrain has it: their tool, their folder, a config over ours."""
    config = folder / 'mine.py'
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({**small_options(), 'train_cfg.max_epochs': 1})
    cfg.dump(config)
    tool = Path(get_installed_path('mmpretrain')) / '.mim' / 'tools' / 'train.py'
    done = run_python([tool, config], cwd=folder, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'accuracy/top1' in done.stdout + done.stderr
    assert (folder / 'work' / 'epoch_1.pth').is_file()


def test_tools_of_this_project_train_and_test_it(folder):
    config = folder / 'mine.py'
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({**small_options(), 'train_cfg.max_epochs': 1})
    cfg.dump(config)
    for words in (['train.py', config], ['test.py', config, 'work/epoch_1.pth']):
        done = run_python([ROOT / 'tools' / words[0], *words[1:]], cwd=folder)
        assert done.returncode == 0, done.stderr[-2000:]
        assert 'accuracy/top1' in done.stdout + done.stderr


@pytest.mark.skipif(
    find_spec('mmdet') is None or find_spec('mmcv._ext') is None,
    reason='needs mmdetection, and mmcv with compiled operations, which mmdetection imports',
)
def test_backbone_of_a_detector():
    """A feature pyramid of the stages' maps under mmdetection's FCOS, from its own scope."""
    from mmdet.registry import MODELS as DET_MODELS
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    init_default_scope('mmdet')
    detector = DET_MODELS.build(
        dict(
            type='FCOS',
            backbone=dict(type='mmseg.PGSegViT', **SMALL_BACKBONE),
            neck=dict(type='FPN', in_channels=[24, 24, 24], out_channels=16, num_outs=5),
            bbox_head=dict(
                type='FCOSHead',
                num_classes=3,
                in_channels=16,
                feat_channels=16,
                norm_cfg=None,
                strides=[8, 8, 8, 16, 32],
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
            ),
            test_cfg=dict(nms_pre=10, score_thr=0.0, max_per_img=5),
        )
    )
    assert isinstance(detector.backbone, PGSegViT)
    sample = DetDataSample(metainfo=dict(img_shape=(64, 64), pad_shape=(64, 64), scale_factor=1.0))
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8.0, 40.0, 48.0]]), labels=torch.tensor([1])
    )
    losses = detector.train().loss(torch.rand(1, 3, 64, 64), [sample])
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert detector.backbone.patch_embed.weight.grad.abs().sum() > 0
