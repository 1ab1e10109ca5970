"""PGSegViT under heads of mmseg, fine-tuned from image-text pre-training."""

import math
import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmseg.registry import MODELS

from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.models.layers import resize_position_embedding
from prepared_processes import run_python
from supervised_zoo import losses, metric, small_config, trained, without_gradient

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'projects' / 'pgseg_backbone'
CONFIGS = sorted((FOLDER / 'configs').glob('pgseg_vit-small-*.py'))
HEADS = {
    'fcn': ('FCNHead', {'channels': 12, 'in_channels': [24] * 3}),
    'upernet': ('UPerHead', {'channels': 12, 'in_channels': [24] * 3}),
    'segmenter': (
        'SegmenterMaskTransformerHead',
        {'in_channels': 24, 'channels': 24, 'embed_dims': 24, 'num_heads': 3},
    ),
    'segformer': ('SegformerHead', {'channels': 12, 'in_channels': [24] * 3}),
}


def head_of(path: Path) -> str:
    return path.stem.split('_')[2]


def options(path: Path) -> dict:
    """Settings that make the model of a config small: those of ``model_zoo``."""
    backbone = {**tiny_model_cfg()['backbone'], 'out_type': 'featmap'}
    small = {f'model.backbone.{key}': value for key, value in backbone.items()}
    for key, value in HEADS[head_of(path)][1].items():
        small[f'model.decode_head.{key}'] = value
    if head_of(path) == 'upernet':
        small['model.neck.in_channels'] = [24] * 3
        small['model.neck.out_channels'] = 24
        small['model.auxiliary_head.in_channels'] = 24
        small['model.auxiliary_head.channels'] = 8
    return small


@pytest.fixture
def pretrained(monkeypatch, tmp_path, data_root):
    """A PGSeg's checkpoint and the data, where the configs look for them."""
    path = tmp_path / 'pgseg.pth'
    model = tiny_model()
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, path)
    monkeypatch.setenv('PGSEG_CHECKPOINT', str(path))
    monkeypatch.setenv('PGSEG_DATA_ROOT', str(data_root))
    monkeypatch.chdir(tmp_path)
    return model


def test_every_head_has_a_config_for_each_data_set():
    names = {
        f'pgseg_vit-small-p16_{head}_8xb2-{data}-512x512'
        for head in HEADS
        for data in ('160k_ade20k', '40k_voc12aug')
    }
    assert {path.stem for path in CONFIGS} == names
    readme = (FOLDER / 'README.md').read_text(encoding='utf-8')
    assert all(f'configs/{name}.py' in readme for name in names)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_says_what_its_name_says(path):
    cfg = Config.fromfile(path)
    assert cfg.model.type == 'EncoderDecoder'
    assert cfg.model.decode_head.type == HEADS[head_of(path)][0]
    heads = [cfg.model.decode_head, cfg.model.get('auxiliary_head')]
    classes, steps = (150, 160000) if 'ade20k' in path.stem else (21, 40000)
    assert {head.num_classes for head in heads if head} == {classes}
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == steps
    assert cfg.model.backbone == Config.fromfile(CONFIGS[0]).model.backbone


def test_backbone_is_the_published_one_for_larger_images():
    cfg = Config.fromfile(CONFIGS[0]).model.backbone
    base = Config.fromfile(ROOT / 'configs/_base_/models/pgseg_vit-small-p16.py')
    shapes, expected = (
        {name: value.shape for name, value in MODELS.build(part).state_dict().items()}
        for part in (cfg, base.model.backbone)
    )
    assert shapes.pop('pos_embed') == (1, 32 * 32, 384)
    assert expected.pop('pos_embed') == (1, 14 * 14, 384)
    assert shapes == expected


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_fine_tunes_and_evaluates(path, tmp_path, pretrained):
    cfg = small_config(path, options(path), tmp_path / 'work')
    runner = trained(cfg)
    assert all(math.isfinite(loss) for loss in losses(runner))
    assert 0 <= metric(runner) <= 100
    assert without_gradient(runner) == []
    assert len(runner.train_dataloader.dataset) == (4 if 'ade20k' in path.stem else 1 + 2)
    for dataset in (runner.train_dataloader.dataset, runner.val_dataloader.dataset):
        labels = dataset[0]['data_samples'].gt_sem_seg.data.unique().tolist()
        assert set(labels) - {255} <= {0, 1, 2}  # those of ADE20K begin with 1 in the files
    head = runner.model.decode_head
    assert type(head).__name__ == HEADS[head_of(path)][0]
    before, after = pretrained.backbone, runner.model.backbone
    moved = (before.patch_embed.weight - after.patch_embed.weight).abs().max()
    assert 0 < moved < 1e-4  # pre-trained, and one step of a decayed rate away


@pytest.mark.parametrize('prototypes', [dict(hidden_channels=16), None], ids=['pgseg', 'groupvit'])
def test_weights_of_the_checkpoint_arrive(prototypes, tmp_path, pretrained):
    (path,) = (path for path in CONFIGS if path.match('*_fcn_*ade20k*'))
    if prototypes is None:
        pretrained = tiny_model(backbone={**tiny_model_cfg()['backbone'], 'prototypes': None})
        torch.save({'state_dict': pretrained.state_dict()}, os.environ['PGSEG_CHECKPOINT'])
    small = {**options(path), 'model.backbone.prototypes': prototypes}
    torch.manual_seed(1)
    model = MODELS.build(small_config(path, small, tmp_path / 'work').model).eval()
    images = torch.rand(2, 3, 32, 32)
    pretrained.backbone.out_type = 'featmap'
    with torch.no_grad():
        maps = pretrained.backbone(images)
        assert not any(map(torch.allclose, model.backbone(images), maps))
        model.init_weights()
        assert all(map(torch.equal, model.backbone(images), maps))


def test_position_embedding_is_resized_for_larger_images(tmp_path, pretrained):
    (path,) = (path for path in CONFIGS if path.match('*_fcn_*ade20k*'))
    cfg = small_config(path, {**options(path), 'model.backbone.img_size': 64}, tmp_path / 'work')
    model = MODELS.build(cfg.model)
    model.init_weights()
    loaded, expected = model.backbone.state_dict(), pretrained.backbone.state_dict()
    torch.testing.assert_close(
        loaded.pop('pos_embed'),
        resize_position_embedding(expected.pop('pos_embed'), (4, 4), (8, 8)),
    )
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.items())


@pytest.mark.parametrize('path', CONFIGS[:2], ids=lambda path: path.stem)
def test_augmented_views_are_averaged(path, tmp_path, pretrained):
    cfg = small_config(path, options(path), tmp_path / 'work')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    views = Compose(cfg.tta_pipeline)(
        dict(
            img_path=str(next(Path(os.environ['PGSEG_DATA_ROOT']).rglob('d.jpg'))),
            seg_map_path=str(next(Path(os.environ['PGSEG_DATA_ROOT']).rglob('d.png'))),
            reduce_zero_label='ade20k' in path.stem,
            seg_fields=[],
        )
    )
    assert len(views['inputs']) == 6 * 2
    assert 0 <= Runner.from_cfg(cfg).test()['mIoU'] <= 100


def test_rates_decay_towards_the_image(tmp_path, pretrained):
    (path,) = (path for path in CONFIGS if path.match('*_upernet_*ade20k*'))
    cfg = small_config(path, options(path), tmp_path / 'work')
    model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    rates = {group['param_name']: group['lr'] / 1e-4 for group in groups}
    decays = {group['param_name']: group['weight_decay'] for group in groups}
    assert rates.keys() == dict(model.named_parameters()).keys()
    expected = {
        'backbone.pos_embed': 0.75**4,
        'backbone.patch_embed.weight': 0.75**4,
        'backbone.stages.0.blocks.0.attn.qkv.weight': 0.75**3,
        'backbone.stages.1.grouping.assign.q_proj.weight': 0.75**2,
        'backbone.stages.2.blocks.0.mlp.fc1.weight': 0.75,
        'backbone.norm.weight': 1,
        'neck.convs.0.conv.weight': 1,
        'decode_head.conv_seg.weight': 1,
        'auxiliary_head.conv_seg.weight': 1,
    }
    assert {name: rates[name] for name in expected} == pytest.approx(expected)
    assert decays['backbone.patch_embed.weight'] == decays['decode_head.conv_seg.weight'] == 0.05
    for name in ('pos_embed', 'stages.0.group_token', 'norm.weight', 'patch_embed.bias'):
        assert decays[f'backbone.{name}'] == 0


def test_commands_of_the_readme_from_another_folder(tmp_path, pretrained):
    (path,) = (path for path in CONFIGS if path.match('*_segformer_*voc*'))
    small = {
        **options(path),
        'model.decode_head.norm_cfg.type': 'BN',
        'model.data_preprocessor.size': (32, 32),
        'train_cfg.max_iters': 1,
        'train_cfg.val_interval': 1,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'val_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False,
        'train_dataloader.dataset.dataset.datasets.0.pipeline.2.scale': (80, 32),
        'train_dataloader.dataset.dataset.datasets.0.pipeline.3.crop_size': (32, 32),
        'train_dataloader.dataset.dataset.datasets.1.pipeline.2.scale': (80, 32),
        'train_dataloader.dataset.dataset.datasets.1.pipeline.3.crop_size': (32, 32),
        'val_dataloader.dataset.pipeline.1.scale': (80, 32),
    }
    del small['model.backbone.prototypes']
    small['model.backbone.prototypes.hidden_channels'] = 16
    values = [f'{key}={str(value).replace(" ", "")}' for key, value in small.items()]
    command = [ROOT / 'tools' / 'train.py', path, '--cfg-options']
    done = run_python([*command, *values])
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'mIoU' in done.stdout
    assert (tmp_path / 'work_dirs' / path.stem / 'iter_1.pth').is_file()
