"""tools/train.py refuses, before the first step, what would fail later or do nothing."""

import re
import runpy
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop
from mmseg.registry import DATASETS
from PIL import Image

from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.engine.preflight import PreflightError, check_npr_begin
from tool_runs import refusal, run_tool, write_pure_python

ROOT = Path(__file__).parents[2]
CLASSES = ('apple', 'dog', 'grass')
numbers = count()


@DATASETS.register_module(force=True)
class PlainScenes(BaseDataset):
    """Labelled images as a data set of mmengine's gives them: nothing of a palette."""

    METAINFO = {}

    def load_data_list(self):
        folder = Path(self.data_root)
        return [
            {
                'img_path': str(path),
                'seg_map_path': str(folder / 'labels' / path.name),
                'reduce_zero_label': False,
                'label_map': None,
                'seg_fields': [],
            }
            for path in sorted((folder / 'images').glob('*.png'))
        ]


@pytest.fixture
def data(tmp_path) -> Path:
    """17 pairs, the first three of them with label maps."""
    rng = np.random.default_rng(0)
    folder = tmp_path / 'data'
    for kind in ('images', 'labels', 'pairs'):
        (folder / kind).mkdir(parents=True)
    rows = []
    for i in range(17):
        image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
        image.save(folder / 'pairs' / f'{i}.png')
        rows.append(f'{i}.png\t{CLASSES[i % 3]} number {i}\n')
        if i < 3:
            image.save(folder / 'images' / f'{i}.png')
            labels = rng.integers(0, 3, (32, 32), np.uint8)
            Image.fromarray(labels).save(folder / 'labels' / f'{i}.png')
    (folder / 'pairs.tsv').write_text('image\tcaption\n' + ''.join(rows))
    return folder


def load(*steps: dict) -> list[dict]:
    return [dict(type='LoadImageFromFile'), *steps]


def write(data: Path, changes: dict | None = None) -> Path:
    """A config that trains the tiny model on the pairs for an epoch."""
    number = next(numbers)
    pairs = dict(
        type='ImageTextDataset',
        data_root=str(data),
        ann_file='pairs.tsv',
        data_prefix=dict(img_path='pairs'),
        pipeline=load(
            dict(type='TokenizeCaption', context_length=16), dict(type='PackImageTextInputs')
        ),
    )
    scenes = dict(
        type='PlainScenes',
        data_root=str(data),
        metainfo=dict(classes=CLASSES),
        pipeline=load(dict(type='LoadAnnotations'), dict(type='PackSegInputs')),
    )
    cfg = Config(
        dict(
            _base_=[str(ROOT / 'configs/_base_/default_runtime.py')],
            model=tiny_model_cfg(test_cfg=dict(mode='whole')),
            train_dataloader=dict(
                batch_size=8,
                num_workers=0,
                drop_last=True,
                sampler=dict(type='ResumableSampler'),
                collate_fn=dict(type='default_collate'),
                dataset=dict(type='SeededDataset', dataset=pairs),
            ),
            train_cfg=dict(type='ResumableEpochLoop', max_epochs=1, val_interval=1),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-4)),
            param_scheduler=dict(
                type='WarmupCosineLR', warmup=0, end=30, by_epoch=True, convert_to_iter_based=True
            ),
            val_dataloader=dict(
                batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False), dataset=scenes
            ),
            val_cfg=dict(type='ValLoop'),
            val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
            custom_hooks=[dict(type='VocabularyHook')],
            work_dir=str(data.parent / 'work'),
            experiment_name=f'preflight_{number}',
            visualizer=dict(name=f'preflight_{number}'),
            log_level='WARNING',
        )
    )
    cfg.merge_from_dict(changes or {}, allow_list_keys=True)
    path = data.parent / f'config_{number}.py'
    path.write_text(''.join(f'{key} = {value!r}\n' for key, value in cfg.to_dict().items()))
    return path


def saved(data: Path) -> dict:
    (path,) = (data.parent / 'work').glob('*.pth')
    return torch.load(path, weights_only=False)


def test_a_set_without_palette_is_validated_and_saved(data, monkeypatch):
    run_tool(monkeypatch, 'tools/train.py', write(data))
    checkpoint = saved(data)
    assert checkpoint['meta']['iter'] == 2
    meta = checkpoint['meta']['dataset_meta']
    assert meta['classes'] == CLASSES
    assert len({tuple(colour) for colour in meta['palette']}) == 3


NAMES_NO_CLASSES = {'val_dataloader.dataset.metainfo.classes': None}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (NAMES_NO_CLASSES, 'names no classes; set metainfo'),
        ({'custom_hooks': []}, r'has no VocabularyHook\. custom_hooks of a config replaces'),
        (
            {'custom_hooks': [dict(type='EMAHook')]},
            r'has no VocabularyHook\. custom_hooks of a config replaces',
        ),
        ({'train_dataloader.batch_size': 32}, '17 samples, and the batch is 32 with drop_last=Tr'),
        ({'train_dataloader.batch_size': 1}, 'every batch would have one sample'),
        (
            {'train_dataloader.drop_last': False},
            'the last batch of an epoch would have one sample.*drop_last=True',
        ),
        ({'train_cfg.max_epochs': 0}, 'max_epochs is 0: nothing would be trained'),
        ({'val_dataloader.dataset.data_root': 'nowhere'}, 'the validation set has no samples'),
        ({'load_from': 'absent.pth'}, 'load_from file not found: absent.pth'),
        ({'train_dataloader': None}, 'the config has no train_dataloader'),
        (
            {'model.decode_head.background_threshold': 0.5},
            "class 0 must be called 'background', got 'apple'",
        ),
        ({'train_dataloader.dataset.dataset.ann_file': 'no.tsv'}, 'the training set cannot be re'),
        ({'train_cfg.val_interval': 0}, 'val_interval is 0; set it to 1 or more'),
        ({'train_cfg.max_epochs': 'many'}, "max_epochs must be a number, got 'many' of type str"),
        ({'resume': 'a.pth'}, r"resume is True or False, got 'a\.pth'; .* load_from to its file"),
        ({'val_evaluator.iou_metrics': ['mIOU']}, 'iou_metrics of IoUMetric has mIOU; there are'),
        ({'val_evaluator.iou_metrics': 'mIOU'}, 'iou_metrics of IoUMetric has mIOU; there are'),
        (
            {'val_evaluator': dict(_delete_=True, type='mmpretrain.Accuracy')},
            'the validation would fail at its first image: KeyError: pred_label',
        ),
        (
            {'default_hooks.checkpoint.save_best': 'mIuO', 'default_hooks.checkpoint.rule': 'less'},
            'save_best of the checkpoints names mIuO, which no metric .* give aAcc, mAcc, mIoU',
        ),
        (
            {
                'val_evaluator.type': 'ZeroShotIoUMetric',
                'val_dataloader.dataset.metainfo.classes': None,
            },
            'ZeroShotIoUMetric needs the classes of the data set, which names none',
        ),
        ({'custom_hooks': [dict(type='VocabularyHook', vocabulary='no.txt')]}, 'file no.txt does'),
        ({'model.backbone.typo': 1}, r'the config cannot be built: TypeError: .*typo'),
        ({'val_evaluator.type': 'Nope'}, 'the validation set cannot be built: KeyError: Nope is'),
        ({'optim_wrapper.optimizer.typo': 1}, 'the optim_wrapper cannot be built: TypeError'),
        ({'param_scheduler.warmup': 99}, 'the param_scheduler cannot be built: ValueError: warmup'),
        ({'model': None}, 'the config cannot be built: TypeError: model should be'),
        ({'optim_wrapper.accumulative_counts': 3}, 'would lose gradients that are accumulated'),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_refused_before_the_first_step(data, monkeypatch, capsys, changes, message):
    said = refusal(monkeypatch, capsys, 'tools/train.py', write(data, changes))
    assert re.search(message, said)
    assert not list(data.parent.glob('work/*.pth'))


@pytest.mark.parametrize('loop', ['ResumableIterLoop', 'IterBasedTrainLoop'])
def test_an_endless_sampler_makes_batches_of_any_size(data, monkeypatch, loop):
    changes = {
        'train_dataloader.batch_size': 32,
        'train_cfg': dict(_delete_=True, type='ResumableIterLoop', max_iters=1),
        'train_dataloader.sampler.infinite': True,
        'param_scheduler': dict(_delete_=True, type='ConstantLR', by_epoch=False),
    }
    if loop == 'IterBasedTrainLoop':
        changes['train_dataloader.sampler'] = dict(_delete_=True, type='InfiniteSampler')
        changes['train_cfg']['type'] = loop
    config = write(data, {**changes, 'val_dataloader': None})
    run_tool(monkeypatch, 'tools/train.py', config)
    assert saved(data)['meta']['iter'] == 1


def test_npr_does_not_wait_for_an_epoch_that_is_not_counted():
    model = tiny_model()
    model.decode_head.loss_npr.by_epoch = True
    check_npr_begin(object(), model)
    model.decode_head.loss_npr.begin = 2
    with pytest.raises(PreflightError, match='loss_npr begins at epoch 2, but object counts'):
        check_npr_begin(object(), model)
    check_npr_begin(EpochBasedTrainLoop.__new__(EpochBasedTrainLoop), model)


def test_a_folder_that_cannot_be_made_is_named(data, monkeypatch, capsys):
    (data.parent / 'file').touch()
    folder = data.parent / 'file' / 'work'
    said = refusal(monkeypatch, capsys, 'tools/train.py', write(data), '--work-dir', folder)
    assert f'work_dir {folder} cannot be written to (Not a directory)' in said


def test_many_ranks_without_a_step_are_named(data, monkeypatch, capsys):
    monkeypatch.setattr('pgseg_mm.datasets.sampling.samplers.get_dist_info', lambda: (0, 4))
    monkeypatch.setattr('pgseg_mm.engine.preflight.steps.get_world_size', lambda: 4)
    said = refusal(monkeypatch, capsys, 'tools/train.py', write(data))
    assert 'dealt out to 4 ranks (5 each)' in said
    assert 'batch_size to 5 or less, use fewer ranks' in said


def test_weights_of_another_model_do_not_begin_a_training(data, monkeypatch, capsys):
    other = {f'blocks.{i}.weight': torch.ones(2) for i in range(5)}
    torch.save(dict(state_dict=other), data / 'other.pth')
    path = write(data, {'load_from': str(data / 'other.pth')})
    said = refusal(monkeypatch, capsys, 'tools/train.py', path)
    assert 'does not fit the model: it lacks' in said
    assert '--allow-partial' in said
    backbone = {
        'model.backbone.init_cfg': dict(
            type='Pretrained', checkpoint=str(data / 'other.pth'), prefix='backbone.'
        )
    }
    said = refusal(monkeypatch, capsys, 'tools/train.py', write(data, backbone))
    assert 'init_cfg of backbone' in said
    assert 'has 0 of its' in said


def test_a_backbone_begins_a_training_of_other_heads(data, monkeypatch):
    state = tiny_model().state_dict()
    weights = {key: value for key, value in state.items() if key.startswith('backbone.')}
    torch.save(dict(state_dict=weights), data / 'backbone.pth')
    settings = ['load_from=' + str(data / 'backbone.pth'), 'optim_wrapper.optimizer.lr=0.0']
    run_tool(monkeypatch, 'tools/train.py', write(data), '--cfg-options', *settings)
    trained = saved(data)['state_dict']
    assert (trained['backbone.pos_embed'] == weights['backbone.pos_embed']).all()


def test_allow_partial_takes_what_fits(data, monkeypatch):
    state = tiny_model().state_dict()
    weights = {'backbone.pos_embed': state['backbone.pos_embed']}
    torch.save(dict(state_dict=weights), data / 'few.pth')
    path = write(data, {'load_from': str(data / 'few.pth'), 'optim_wrapper.optimizer.lr': 0.0})
    run_tool(monkeypatch, 'tools/train.py', path, '--allow-partial')
    trained = saved(data)['state_dict']
    assert (trained['backbone.pos_embed'] == weights['backbone.pos_embed']).all()


def test_the_config_resumes_and_flags_switch_on_only(data, monkeypatch):
    first = write(data, {'default_hooks.checkpoint.by_epoch': True, 'val_dataloader': None})
    run_tool(monkeypatch, 'tools/train.py', first)
    last = data.parent / 'work' / 'epoch_1.pth'
    steps = saved(data)['optimizer']['state'][0]['step']
    assert steps == 2
    resumed = write(
        data,
        {
            'default_hooks.checkpoint.by_epoch': True,
            'val_dataloader': None,
            'train_cfg.max_epochs': 2,
        },
    )
    settings = ['resume=True', f'load_from={last}']
    again = data.parent / 'again'
    arguments = ['--work-dir', again, '--cfg-options', *settings]
    run_tool(monkeypatch, 'tools/train.py', resumed, *arguments)
    checkpoint = torch.load(again / 'epoch_2.pth', weights_only=False)
    assert checkpoint['optimizer']['state'][0]['step'] == 4
    assert not (again / 'epoch_1.pth').exists()


def test_a_config_in_pure_python_style_is_trained(data, monkeypatch):
    settings = Config.fromfile(write(data)).to_dict()
    path = write_pure_python(settings, data.parent / 'pure.py')
    assert not isinstance(Config.fromfile(path).model.type, str)
    run_tool(monkeypatch, 'tools/train.py', path)
    assert saved(data)['meta']['iter'] == 2
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cuda')
    train = runpy.run_path(str(ROOT / 'tools/train.py'))
    cfg = Config.fromfile(path)
    cfg.optim_wrapper.type = OptimWrapper
    train['enable_amp'](cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'


@pytest.mark.parametrize('metrics', ['mIoU', ['mIoU', 'mDice']])
def test_what_runs_is_not_refused(data, monkeypatch, metrics):
    changes = {
        'val_evaluator.iou_metrics': metrics,
        'default_hooks.checkpoint.save_best': 'mIoU',
        'env_cfg': None,
        'randomness': None,
    }
    run_tool(monkeypatch, 'tools/train.py', write(data, changes))
    assert saved_best(data)['meta']['iter'] == 2


def saved_best(data: Path) -> dict:
    (path,) = (data.parent / 'work').glob('best_mIoU*.pth')
    return torch.load(path, weights_only=False)


def test_trying_the_validation_changes_nothing_of_the_training(data, monkeypatch):
    weights = []
    for hooks in (dict(type='mmseg.PreflightHook'), None):
        changes = {
            'default_hooks.preflight': hooks,
            'randomness.seed': 3,
            'work_dir': str(data.parent / 'work' / str(len(weights))),
        }
        run_tool(monkeypatch, 'tools/train.py', write(data, changes))
        (path,) = (data.parent / 'work').glob(f'{len(weights)}/*.pth')
        weights.append(torch.load(path, weights_only=False)['state_dict'])
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def by_epoch(**changes) -> dict:
    return {'default_hooks.checkpoint.by_epoch': True, 'val_dataloader': None, **changes}


def test_a_run_that_has_ended_says_so(data, monkeypatch, capsys):
    config = write(data, by_epoch(log_level='INFO'))
    run_tool(monkeypatch, 'tools/train.py', config)
    again = write(data, by_epoch(log_level='INFO'))
    run_tool(monkeypatch, 'tools/train.py', again, '--resume')
    shown = ''.join(capsys.readouterr())
    assert 'Nothing is left to train: the run has 1 epochs behind it' in shown


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {
                'optim_wrapper.paramwise_cfg': dict(norm_decay_mult=0.0),
                'optim_wrapper.optimizer.weight_decay': 0.1,
            },
            r'has 1 groups of \d+ parameters, that of the config \d+ groups',
        ),
        (
            {'optim_wrapper.optimizer': dict(_delete_=True, type='SGD', lr=0.1)},
            'is not the SGD of the config .only one of them has betas',
        ),
    ],
)
def test_the_state_of_another_optimizer_is_refused(data, monkeypatch, capsys, changes, message):
    run_tool(monkeypatch, 'tools/train.py', write(data, by_epoch()))
    config = write(data, by_epoch(**{'train_cfg.max_epochs': 2, **changes}))
    said = refusal(monkeypatch, capsys, 'tools/train.py', config, '--resume')
    assert re.search(message, said)
    # with the weights alone it begins anew
    last = data.parent / 'work' / 'epoch_1.pth'
    settings = ['--cfg-options', f'load_from={last}']
    run_tool(monkeypatch, 'tools/train.py', config, '--work-dir', data.parent / 'new', *settings)


def test_data_of_which_nothing_can_be_used_end_a_run_in_a_sentence(data, monkeypatch):
    for path in (data / 'pairs').glob('*.png'):
        path.write_bytes(b'no image')
    config = write(data, {'train_dataloader.num_workers': 1})
    with pytest.raises(SystemExit, match=r'^error: No usable pair in .* broken image') as stop:
        run_tool(monkeypatch, 'tools/train.py', config)
    assert len(str(stop.value)) < 600
    config = write(data, {'train_dataloader.dataset.dataset.skip_broken': False})
    with pytest.raises(SystemExit, match=r'^error: Image .*cannot be read as an image'):
        run_tool(monkeypatch, 'tools/train.py', config)
