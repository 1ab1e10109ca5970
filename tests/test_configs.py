"""Every config is loaded, and its parts are built."""

import re
from pathlib import Path

import open_clip
import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, PARAM_SCHEDULERS, VISBACKENDS
from mmseg.registry import HOOKS as SEG_HOOKS
from mmseg.registry import METRICS, MODELS, TRANSFORMS, VISUALIZERS

from pgseg_mm.models import PGSeg, ReleaseTextPrototypes

ROOT = Path(__file__).parents[1] / 'configs'
CONFIGS = sorted(p.relative_to(ROOT) for p in ROOT.rglob('*.py') if '_base_' not in p.parts)
BASES = sorted(p.relative_to(ROOT) for p in (ROOT / '_base_').rglob('*.py'))


@pytest.fixture(scope='module', params=CONFIGS, ids=str)
def cfg(request) -> Config:
    return Config.fromfile(ROOT / request.param)


@pytest.mark.parametrize('path', BASES, ids=str)
def test_bases_load(path):
    assert len(Config.fromfile(ROOT / path)) > 0


def test_model_builds(cfg):
    model = MODELS.build(cfg.model)
    assert isinstance(model, PGSeg)
    assert model.backbone.out_type == 'groups'


def test_release_npr_sets_every_deviation_and_nothing_else_does():
    deviating = []
    for path in CONFIGS:
        model = MODELS.build(Config.fromfile(ROOT / path).model)
        loss = model.decode_head.loss_npr
        if loss is None:
            continue
        deviations = [
            all(stage.prototypes.momentum is None for stage in model.backbone.stages[:-1]),
            not loss.maximize,
            loss.rejection == 'release',
            loss.nan_if_empty,
            isinstance(model.decode_head.text_prototypes, ReleaseTextPrototypes),
        ]
        assert all(deviations) or not any(deviations), path
        deviating += [path.stem] if all(deviations) else []
    assert [name.rpartition('_')[2] for name in deviating] == ['release-npr']


def test_optimizer_decays_neither_temperatures_nor_vectors(cfg):
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decay = {
        id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']
    }
    for name, parameter in model.named_parameters():
        exempt = parameter.ndim <= 1 or 'logit_scale' in name
        assert decay[id(parameter)] == (0 if exempt else 0.05), name


@pytest.mark.usefixtures('tiny_tagger')
def test_pipelines_hooks_and_metric_build(cfg, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    VISUALIZERS.build(dict(cfg.visualizer, save_dir=str(tmp_path), name=str(tmp_path)))
    train = cfg.train_dataloader.dataset.dataset
    train_sets = train.datasets if 'datasets' in train else [train]
    for dataset in [*train_sets, cfg.val_dataloader.dataset]:
        assert [TRANSFORMS.build(step) for step in dataset.pipeline]
    for hook in [*cfg.default_hooks.values(), *cfg.custom_hooks]:
        assert SEG_HOOKS.build(hook) or HOOKS.build(hook)
    assert METRICS.get(cfg.val_evaluator.type)
    assert all(VISBACKENDS.get(backend.type) for backend in cfg.vis_backends)
    schedulers = cfg.param_scheduler
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        assert PARAM_SCHEDULERS.get(scheduler.type)


def test_one_place_says_how_often_and_by_what_to_save(cfg):
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU'
    assert cfg.train_cfg.val_interval > 0


def test_noun_prompts_are_made_before_they_are_tokenised_and_have_a_loss():
    cfg = Config.fromfile(ROOT / next(path for path in CONFIGS if 'multi-label' in path.stem))
    assert 'loss_multi_label' in cfg.model.decode_head
    for dataset in cfg.train_dataloader.dataset.dataset.datasets:
        steps = [step.type for step in dataset.pipeline]
        assert steps[-3:] == ['NounPrompts', 'TokenizeCaption', 'PackImageTextInputs']


def test_text_encoder_in_the_readme(tmp_path):
    readme = (ROOT / 'pgseg' / 'README.md').read_text(encoding='utf-8')
    (block,) = [b for b in re.findall(r'```python\n(.*?)```', readme, re.S) if 'OpenCLIP' in b]
    path = tmp_path / 'mine.py'
    path.write_text(block.replace("'./", f"'{ROOT / 'pgseg'}/"))
    cfg = Config.fromfile(path)
    encoder = cfg.model.text_encoder
    assert open_clip.is_pretrained_cfg(encoder.model_name, encoder.pretrained)
    assert open_clip.get_pretrained_cfg(encoder.model_name, encoder.pretrained)['quick_gelu']
    encoder.pretrained = None
    model = MODELS.build(cfg.model)
    assert model.text_encoder.embed_dims == cfg.model.decode_head.text_channels
    assert model.embed_words(['dog', 'cat']).shape == (2, 256)
