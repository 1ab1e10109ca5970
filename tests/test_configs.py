"""Every config is loaded, and its parts are built."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
import yaml
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, PARAM_SCHEDULERS, VISBACKENDS
from mmseg.registry import DATA_SAMPLERS, DATASETS, METRICS, MODELS, TRANSFORMS, VISUALIZERS
from mmseg.registry import HOOKS as SEG_HOOKS
from PIL import Image

from model_zoo import tiny_model
from pgseg_mm.models import PGSeg, ReleaseTextPrototypes
from pgseg_mm.text.vocabulary import Vocabulary

ROOT = Path(__file__).parents[1] / 'configs'
CONFIGS = sorted(
    path
    for path in (p.relative_to(ROOT) for p in ROOT.rglob('*.py'))
    if '_base_' not in path.parts and path.parts[0] != 'clip'  # test_clip_configs.py has these
)
BASES = sorted(p.relative_to(ROOT) for p in (ROOT / '_base_').rglob('*.py'))
EVALUATION = {'retrieval', 'zero_shot'}
TRAINING = [path for path in CONFIGS if EVALUATION.isdisjoint(path.parts)]
BENCHMARKS = {path.stem for path in BASES if path.parts[1] == 'benchmarks'}
ZERO_SHOT = [
    path
    for path in CONFIGS
    if path not in TRAINING
    and path.stem.rpartition('_zero-shot')[2].partition('_')[2] in BENCHMARKS
]


AMP = {'dtype', 'loss_scale'}
PUBLISHED = [path for path in TRAINING if 'tiny' not in path.stem]
_MODELS: dict[str, PGSeg] = {}


def built(cfg: Config) -> PGSeg:
    """The model of a config, without weights from elsewhere; built once for all that share it."""
    model_cfg = ConfigDict(cfg.model.to_dict())
    if 'pretrained' in model_cfg.text_encoder:
        model_cfg.text_encoder.pretrained = None
    key = repr(model_cfg)
    if key not in _MODELS:
        _MODELS[key] = MODELS.build(model_cfg)
    return _MODELS[key]


def datasets_of(cfg: ConfigDict) -> Iterator[ConfigDict]:
    """Data sets that have a pipeline, inside of wrappers."""
    if 'pipeline' in cfg:
        yield cfg
    for inner in [*cfg.get('datasets', ()), *([cfg.dataset] if 'dataset' in cfg else [])]:
        yield from datasets_of(inner)


@pytest.fixture(scope='module', params=CONFIGS, ids=str)
def cfg(request) -> Config:
    return Config.fromfile(ROOT / request.param)


@pytest.fixture(scope='module', params=TRAINING, ids=str)
def training_cfg(request) -> Config:
    return Config.fromfile(ROOT / request.param)


@pytest.mark.parametrize('path', BASES, ids=str)
def test_bases_load(path):
    assert len(Config.fromfile(ROOT / path)) > 0


def test_model_builds(cfg):
    model = built(cfg)
    assert isinstance(model, PGSeg)
    assert model.backbone.out_type == 'groups'


def test_release_npr_sets_every_deviation_and_nothing_else_does():
    deviating = []
    for path in TRAINING:
        model = built(Config.fromfile(ROOT / path))
        loss = model.decode_head.loss_npr
        if loss is None:
            continue
        deviations = [
            all(stage.prototypes.momentum is None for stage in model.backbone.stages[:-1]),
            not loss.maximize,
            loss.rejection == 'release',
            isinstance(model.decode_head.text_prototypes, ReleaseTextPrototypes),
        ]
        assert all(deviations) or not any(deviations), path
        assert not loss.nan_if_empty, path  # it would end the run
        deviating += [path.stem] if all(deviations) else []
    assert [name.rpartition('_')[2] for name in deviating] == ['release-npr']


def test_optimizer_decays_neither_temperatures_nor_vectors(training_cfg):
    model = built(training_cfg)
    plain = {key: value for key, value in training_cfg.optim_wrapper.items() if key not in AMP}
    optimizer = build_optim_wrapper(model, ConfigDict(plain, type='OptimWrapper')).optimizer
    decay = {
        id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = parameter.ndim <= 1 or 'logit_scale' in name
        assert decay[id(parameter)] == (0 if exempt else 0.05), name


@pytest.mark.usefixtures('tiny_tagger')
def test_pipelines_hooks_and_metric_build(cfg, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    VISUALIZERS.build(dict(cfg.visualizer, save_dir=str(tmp_path), name=str(tmp_path)))
    loaders = [cfg[key] for key in cfg if key.endswith('_dataloader')]
    for loader in loaders:
        assert DATA_SAMPLERS.get(loader.sampler.type)
        for dataset in datasets_of(loader.dataset):
            assert DATASETS.get(dataset.type)
            for step in dataset.pipeline:
                if 'names' in step:  # a file of the data
                    names = tmp_path / step.names
                    names.parent.mkdir(parents=True, exist_ok=True)
                    names.write_text('dog\nred apple\n')
                assert TRANSFORMS.build(step)
    for hook in filter(None, [*cfg.default_hooks.values(), *cfg.custom_hooks]):
        assert SEG_HOOKS.build(hook) or HOOKS.build(hook)
    assert METRICS.get(cfg.test_evaluator.type)
    assert all(VISBACKENDS.get(backend.type) for backend in cfg.vis_backends)
    schedulers = cfg.get('param_scheduler', [])
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        assert PARAM_SCHEDULERS.get(scheduler.type)


def test_one_place_says_how_often_and_by_what_to_save(training_cfg):
    # of DAVIS's words some have no pixel
    davis = training_cfg.val_dataloader.dataset.type == 'DAVISMainObjectDataset'
    measured = 'mIoU_labelled' if davis else 'mIoU'
    assert training_cfg.default_hooks.checkpoint.save_best == measured
    assert training_cfg.train_cfg.val_interval > 0


@pytest.mark.parametrize('path', ZERO_SHOT, ids=str)
def test_zero_shot_configs_are_the_model_and_a_benchmark_with_its_threshold(path):
    cfg = Config.fromfile(ROOT / path)
    base = Config.fromfile(ROOT / '_base_' / 'models' / 'pgseg_vit-small-p16.py')
    name = path.stem.rpartition('_zero-shot')[2].partition('_')[2]
    assert cfg.benchmark.name == name
    assert 'train_dataloader' not in cfg
    assert cfg.model.pop('class_embed_cache') == os.environ['PGSEG_CACHE']
    threshold = cfg.model.decode_head.pop('background_threshold', None)
    assert cfg.model == base.model
    assert threshold == base.background_thresholds.get(name)
    (hook,) = cfg.custom_hooks
    words = Vocabulary.from_file(hook.vocabulary)
    assert words.has_background == (threshold is not None)


def test_noun_prompts_are_made_before_they_are_tokenised_and_have_a_loss():
    paths = [
        path
        for path in CONFIGS
        if 'multi-label' in path.stem or path.stem.endswith('224x224_paste_late-interaction')
    ]
    assert len(paths) == 4
    for path in paths:
        cfg = Config.fromfile(ROOT / path)
        assert 'loss_multi_label' in cfg.model.decode_head
        for dataset in datasets_of(cfg.train_dataloader.dataset):
            steps = [step.type for step in dataset.pipeline]
            assert steps[-3:] == ['NounPrompts', 'TokenizeCaption', 'PackImageTextInputs']


@pytest.mark.parametrize('path', PUBLISHED, ids=str)
def test_global_batch_and_data_are_those_of_the_name(path):
    cfg = Config.fromfile(ROOT / path)
    gpus, batch, data = re.search(r'_(\d+)xb(\d+)-30e_(.+)-224x224', path.stem).groups()
    assert int(gpus) * int(batch) == 4096 == cfg.auto_scale_lr.base_batch_size
    assert cfg.train_dataloader.batch_size == int(batch)
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.drop_last) == (30, True)
    if 'jsonl' not in path.stem:
        (dataset,) = datasets_of(cfg.train_dataloader.dataset)
        assert '-'.join(source.name for source in dataset.sources) == data


@pytest.mark.parametrize('path', PUBLISHED, ids=str)
def test_rates_are_the_published_ones(path):
    """docs/method.md, 5, with epochs of 100 steps."""
    cfg = Config.fromfile(ROOT / path)
    steps = 100
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    optimizer.param_groups[0]['lr'] = cfg.optim_wrapper.optimizer.lr
    schedule = dict(cfg.param_scheduler, verbose=False)
    scheduler = PARAM_SCHEDULERS.build(
        schedule, default_args=dict(optimizer=optimizer, epoch_length=steps)
    )
    rates = []
    for _ in range(30 * steps):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    if 'from-scratch' in path.stem or path.parts[0] == 'groupvit':
        # 4e-5 + 1.56e-3 * (1 + cos(2 / 30 * pi)) / 2 where the warm-up ends
        published = {0: 4e-6, 1: 8.02e-4, 2: 1.5829551e-3, 15: 8.2e-4, 20: 4.3e-4}
        floor = 4e-5
    else:
        published = {0: 1e-6, 5: 5.05e-5, 10: 7.75e-5, 15: 5.5e-5, 20: 3.25e-5}
        floor = 1e-5
    assert {epoch: rates[epoch * steps] for epoch in published} == pytest.approx(published)
    assert rates[-1] == pytest.approx(floor, rel=1e-4)


@pytest.mark.parametrize('path', PUBLISHED, ids=str)
def test_optimiser_is_the_published_one(path):
    wrapper = Config.fromfile(ROOT / path).optim_wrapper
    assert wrapper.optimizer.type == 'AdamW'
    assert (tuple(wrapper.optimizer.betas), wrapper.optimizer.eps) == ((0.9, 0.999), 1e-8)
    assert wrapper.clip_grad == {'max_norm': 5.0}
    if wrapper.type == 'AmpOptimWrapper':
        scaled = {'float16': 'dynamic', 'bfloat16': {'enabled': False}}
        assert wrapper.loss_scale == scaled[wrapper.dtype]
        assert path.stem.endswith({'float16': 'fp16', 'bfloat16': 'bf16'}[wrapper.dtype])
    else:
        assert wrapper.type == 'OptimWrapper'


def test_bfloat16_trains_without_scaling_the_loss(monkeypatch):
    # MMEngine refuses to build the wrapper on a CPU, though it works there
    wrappers = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
    monkeypatch.setattr(f'{wrappers}.is_npu_available', lambda: True)
    (path,) = [path for path in CONFIGS if path.match('pgseg/*_bf16.py')]
    layer = torch.nn.Linear(4, 1, bias=False)
    before = layer.weight.detach().clone()
    wrapper = build_optim_wrapper(layer, Config.fromfile(ROOT / path).optim_wrapper)
    assert not wrapper.loss_scaler.is_enabled()
    with wrapper.optim_context(layer):
        out = layer(torch.ones(2, 4))
    assert out.dtype == torch.bfloat16
    wrapper.update_params(out.float().sum())
    # the first step of AdamW is one of the size of the rate, against the gradient's sign
    moved = before * (1 - 1e-4 * 0.05) - 1e-4
    assert torch.allclose(layer.weight, moved, atol=1e-6)


def test_moving_average_takes_in_batch_norm_and_prototypes():
    (path,) = [path for path in CONFIGS if path.match('pgseg/*_ema.py')]
    cfg = Config.fromfile(ROOT / path)
    assert [hook.type for hook in cfg.custom_hooks] == ['VocabularyHook', 'EMAHook']
    momentum = cfg.custom_hooks[1].momentum
    hook = HOOKS.build(cfg.custom_hooks[1])
    model = tiny_model().train()
    runner = SimpleNamespace(model=model, iter=0)
    hook.before_run(runner)
    names = [
        name
        for name, value in model.state_dict().items()
        if name.endswith(('mu', 'running_mean', 'patch_embed.weight')) and value.numel() > 1
    ]
    assert {name.rpartition('.')[2] for name in names} == {'mu', 'running_mean', 'weight'}
    states = []
    for step in range(3):
        with torch.no_grad():
            for name in names:
                model.state_dict()[name].add_(step + 1.0)
        states.append({name: model.state_dict()[name].clone() for name in names})
        hook.after_train_iter(runner, step)
    hook.before_val_epoch(runner)
    for name in names:
        first, second, third = (state[name] for state in states)
        mean = (first * (1 - momentum) + second * momentum) * (1 - momentum) + third * momentum
        assert torch.allclose(model.state_dict()[name], mean, atol=1e-6), name
    hook.after_val_epoch(runner)
    assert all(torch.equal(model.state_dict()[name], states[-1][name]) for name in names)


@pytest.mark.usefixtures('tiny_tagger')
@pytest.mark.parametrize('path', PUBLISHED, ids=str)
def test_pipeline_makes_tokens_and_images(path, tmp_path):
    cfg = Config.fromfile(ROOT / path)
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / 'cat.png')
    for dataset in datasets_of(cfg.train_dataloader.dataset):
        run = Compose([TRANSFORMS.build(step) for step in dataset.pipeline])
        for _ in range(8):
            packed = run(dict(img_path=str(tmp_path / 'cat.png'), caption='a cat on a mat'))
            assert (packed['inputs'].shape, packed['inputs'].dtype) == ((3, 224, 224), torch.uint8)
        assert packed['tokens'].shape[-1] == 77


def test_groupvit_augmentation_is_timms():
    steps = Config.fromfile(ROOT / '_base_/datasets/groupvit_augmentation.py').augmentation
    augment, erase = (TRANSFORMS.build(step) for step in steps)
    assert len(augment.transforms) == 15  # as timm's increasing set
    assert {transform.prob for transform in augment.transforms} == {0.5}
    levels = [t for t in augment.transforms if t.magnitude_range is not None]
    assert len(levels) == 12
    assert {(t.magnitude_level, t.magnitude_std, t.total_level) for t in levels} == {(9, 0.5, 10)}

    np.random.seed(0)
    noise, erased = [], 0
    for _ in range(1000):
        image = erase(dict(img=np.zeros((64, 64, 3), np.uint8)))['img']
        area = image.any(axis=-1)
        if area.any():
            erased += 1
            noise.append(image[area].astype(float))
            assert 0.01 < area.mean() < 0.35
    assert erased == pytest.approx(250, abs=45)  # 3.3 standard deviations
    pixels = np.concatenate(noise)
    normalised = (pixels - [103.53, 116.28, 123.675]) / [57.375, 57.12, 58.395]  # BGR
    assert np.abs(normalised.mean(axis=0)).max() < 0.05
    assert np.abs(normalised.std(axis=0) - 1).max() < 0.1  # some of it is cut at 0 and 255


@pytest.mark.parametrize('kind', ['tensorboard', 'wandb'])
def test_where_scalars_go(kind, tmp_path):
    cfg = Config.fromfile(ROOT / '_base_' / f'epoch_runtime_{kind}.py')
    plain = Config.fromfile(ROOT / '_base_' / 'epoch_runtime.py')
    backends = cfg.visualizer.vis_backends
    names = [backend.type.lower() for backend in backends]
    assert names == ['localvisbackend', f'{kind}visbackend']
    assert cfg.visualizer.type == plain.visualizer.type
    assert all(cfg[key] == plain[key] for key in plain if key not in ('vis_backends', 'visualizer'))
    if kind == 'tensorboard':
        backend = VISBACKENDS.build(dict(backends[1], save_dir=str(tmp_path)))
        backend.add_scalar('loss', 1.0, step=0)
        backend.close()
        assert list(tmp_path.glob('events.*'))


@pytest.mark.parametrize('folder', ['pgseg', 'groupvit'])
def test_readme_and_metafile_list_every_config(folder):
    paths = [path.relative_to(folder) for path in CONFIGS if path.parts[0] == folder]
    readme = (ROOT / folder / 'README.md').read_text(encoding='utf-8')
    table = re.findall(r'^\| \[`[^`]+`\]\(([^)]+)\.py\)', readme, re.M)
    assert sorted(table) == sorted(str(path.with_suffix('')) for path in paths)
    models = yaml.safe_load((ROOT / folder / 'metafile.yml').read_text())['Models']
    found = sorted((model['Name'], model['Config']) for model in models)
    assert found == sorted((path.stem, f'configs/{folder}/{path}') for path in paths)
    for model in models:
        assert model['In Collection'].lower() == folder


def test_text_tower_of_open_clip():
    (path,) = [path for path in CONFIGS if 'open-clip' in path.stem]
    cfg = Config.fromfile(ROOT / path)
    encoder = cfg.model.text_encoder
    assert open_clip.is_pretrained_cfg(encoder.model_name, encoder.pretrained)
    assert open_clip.get_pretrained_cfg(encoder.model_name, encoder.pretrained)['quick_gelu']
    model = built(cfg)
    assert model.text_encoder.embed_dims == cfg.model.decode_head.text_channels
    assert not any(parameter.requires_grad for parameter in model.text_encoder.parameters())
    assert model.embed_words(['dog', 'cat']).shape == (2, 256)
