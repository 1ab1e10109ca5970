"""Training, validation and what checkpoints carry, through the Runner on a data set on disk."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.apis import inference_model, init_model
from mmseg.registry import DATASETS, MODELS
from PIL import Image

from model_zoo import tiny_model_cfg
from pgseg_mm.engine import VocabularyHook
from pgseg_mm.engine.preflight.words import check_words
from pgseg_mm.errors import PreflightError

CLASSES = ['dog', 'grass', 'sky']
EVAL_PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]


@pytest.fixture(scope='module')
def data_root(tmp_path_factory) -> Path:
    """Eight captioned images, four with masks."""
    root = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    for folder in ('train', 'val', 'masks'):
        (root / folder).mkdir()
    rows = []
    for i in range(8):
        image = rng.integers(256, size=(32, 32, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / 'train' / f'{i}.png')
        rows.append({'image': f'train/{i}.png', 'caption': f'a {CLASSES[i % 3]} number {i}'})
        if i < 4:
            Image.fromarray(image).resize((48, 40)).save(root / 'val' / f'{i}.png')
            mask = rng.integers(3, size=(40, 48), dtype=np.uint8)
            Image.fromarray(mask).save(root / 'masks' / f'{i}.png')
    (root / 'train.jsonl').write_text('\n'.join(json.dumps(row) for row in rows))
    return root


def config(data_root: Path, work_dir: Path, **kwargs) -> Config:
    val_set = dict(
        type='BaseSegDataset',
        data_root=str(data_root),
        data_prefix=dict(img_path='val', seg_map_path='masks'),
        metainfo=dict(classes=CLASSES),
        img_suffix='.png',
        pipeline=EVAL_PIPELINE,
    )
    return Config(
        dict(
            default_scope='mmseg',
            work_dir=str(work_dir),
            experiment_name=work_dir.name,
            randomness=dict(seed=0),
            model=tiny_model_cfg(),
            train_dataloader=dict(
                batch_size=4,
                num_workers=0,
                sampler=dict(type='InfiniteSampler', shuffle=True),
                dataset=dict(
                    type='ImageTextDataset',
                    data_root=str(data_root),
                    ann_file='train.jsonl',
                    pipeline=[
                        dict(type='LoadImageFromFile'),
                        dict(type='TokenizeCaption', context_length=16),
                        dict(type='PackImageTextInputs'),
                    ],
                ),
            ),
            val_dataloader=dict(
                batch_size=2,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=val_set,
            ),
            val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2),
            val_cfg=dict(type='ValLoop'),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
            default_hooks=dict(
                checkpoint=dict(
                    type='CheckpointHook', by_epoch=False, interval=4, save_best='mIoU'
                ),
                logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
            ),
            custom_hooks=[dict(type='VocabularyHook')],
            log_processor=dict(by_epoch=False),
            **kwargs,
        )
    )


@pytest.fixture(scope='module')
def trained(data_root, tmp_path_factory) -> Runner:
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    runner = Runner.from_cfg(config(data_root, tmp_path_factory.mktemp('trained')))
    runner.train()
    return runner


def test_validation_speaks_the_words_of_its_data_set(trained):
    assert trained.model.vocabulary.names == tuple(CLASSES)
    assert trained.model.num_classes == 3
    assert trained.message_hub.get_scalar('val/mIoU').current() >= 0
    assert list(Path(trained.work_dir).glob('best_mIoU_iter_*.pth'))


def test_checkpoint_carries_classes_palette_and_words(trained):
    path = Path(trained.work_dir) / 'iter_4.pth'
    meta = torch.load(path, weights_only=False)['meta']['dataset_meta']
    assert list(meta['classes']) == CLASSES
    colours = trained.val_dataloader.dataset.metainfo['palette']
    assert np.shape(colours) == (3, 3) and np.array_equal(meta['palette'], colours)
    assert meta['vocabulary'] == [[name] for name in CLASSES]


def test_mmsegs_own_inference_works_on_it(trained, data_root):
    path = str(Path(trained.work_dir) / 'iter_4.pth')
    cfg = config(data_root, Path(trained.work_dir))
    cfg.test_pipeline = EVAL_PIPELINE
    model = init_model(cfg, path, device='cpu')
    assert list(model.dataset_meta['classes']) == CLASSES
    result = inference_model(model, str(data_root / 'val' / '0.png'))
    assert result.pred_sem_seg.data.shape == (1, 40, 48)


def test_resuming_restores_weights_prototypes_and_step(trained, data_root, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(logging.Logger, 'warning', lambda self, text, *_: told.append(str(text)))
    cfg = config(data_root, tmp_path / 'resumed')
    cfg.train_cfg.max_iters = 5
    cfg.load_from, cfg.resume = str(Path(trained.work_dir) / 'iter_4.pth'), True
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    assert runner.iter == 4
    assert not [text for text in told if 'dataset metainfo' in text]
    saved, loaded = trained.model.state_dict(), runner.model.state_dict()
    assert 'backbone.stages.0.prototypes.mu' in saved
    assert all(torch.equal(saved[k], loaded[k]) for k in saved)


def test_losses_temperatures_gradient_norm_and_group_usage_are_logged(data_root, tmp_path):
    cfg = config(data_root, tmp_path / 'logged')
    cfg.optim_wrapper.clip_grad = dict(max_norm=5.0)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint.save_best = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    logged = {name.removeprefix('train/') for name in runner.message_hub.log_scalars}
    assert logged >= {
        'loss',
        'loss_contrastive',
        'loss_npr_0',
        'loss_npr_1',
        'temperature',
        'npr_temperature',
        'grad_norm',
        'group_usage_0',
        'group_usage_1',
    }


def test_a_vocabulary_file_renames_labels(data_root, tmp_path):
    words = tmp_path / 'words.txt'
    words.write_text('puppy, hound\nlawn\nclouds\n')
    cfg = config(data_root, tmp_path / 'renamed')
    cfg.custom_hooks = [dict(type='VocabularyHook', vocabulary=str(words))]
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.test_cfg = dict(type='TestLoop')
    runner = Runner.from_cfg(cfg)
    metrics = runner.test()
    assert runner.model.vocabulary.names == ('puppy', 'lawn', 'clouds')
    assert runner.model.num_classes == 3
    assert 'mIoU' in metrics


def test_a_vocabulary_of_another_length_is_refused_before_the_evaluation(data_root, tmp_path):
    words = tmp_path / 'words.txt'
    words.write_text('puppy\nlawn\n')
    cfg = config(data_root, tmp_path / 'refused')
    cfg.custom_hooks = [dict(type='VocabularyHook', vocabulary=str(words))]
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.test_cfg = dict(type='TestLoop')
    with pytest.raises(ValueError, match='2 classes and the data set 3'):
        Runner.from_cfg(cfg).test()


def test_weights_swapped_by_ema_are_embedded_anew(data_root, tmp_path):
    cfg = config(data_root, tmp_path / 'ema')
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.5))
    cfg.optim_wrapper.optimizer.lr = 0.1
    runner = Runner.from_cfg(cfg)
    embeds = []
    original = runner.model.decode_head.set_class_embeds
    runner.model.decode_head.set_class_embeds = lambda e, index: (
        embeds.append((e, runner.model.embed_words(CLASSES))),
        original(e, index),
    )
    runner.train()
    assert len(embeds) == 2  # at both validations
    for used, fresh in embeds:
        torch.testing.assert_close(used, fresh)
    assert not torch.allclose(embeds[0][0], embeds[1][0])


def test_a_retriever_is_trained_and_validated_without_words(data_root, tmp_path):
    cfg = config(data_root, tmp_path / 'retriever')
    cfg.model.type = 'PGSegRetriever'
    cfg.val_dataloader.dataset = dict(
        type='ImageTextRetrievalDataset',
        data_root=str(data_root),
        ann_file='train.jsonl',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmpretrain.PackInputs', algorithm_keys=('text',)),
        ],
    )
    cfg.val_evaluator = dict(type='ImageTextRetrievalMetric', topk=(1, 8))
    cfg.default_hooks.checkpoint.update(save_best='retrieval/i2t_R@1', rule='greater')
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.message_hub.get_scalar('val/retrieval/i2t_R@8').current() == 100
    assert list(Path(runner.work_dir).glob('best_retrieval_i2t_R@1_iter_*.pth'))


def test_only_a_model_that_names_classes_is_asked_for_words(data_root, tmp_path):
    dataset = DATASETS.build(config(data_root, tmp_path).train_dataloader.dataset)
    segmentor, retriever = (
        MODELS.build({**tiny_model_cfg(), 'type': name}) for name in ('PGSeg', 'PGSegRetriever')
    )
    for hooks in ([], [VocabularyHook()]):
        check_words(retriever, hooks, dataset, 'test')
        with pytest.raises(PreflightError, match='needs words|names no classes'):
            check_words(segmentor, hooks, dataset, 'test')


def test_refuses_a_vocabulary_that_does_not_exist():
    with pytest.raises(FileNotFoundError, match='does not exist'):
        VocabularyHook(vocabulary='no-such-words')


def test_refuses_a_data_set_without_classes():
    with pytest.raises(ValueError, match='names no classes'):
        VocabularyHook()._vocabulary_of({})
