"""A small model and labelled images for tools that take a config and a checkpoint."""

from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import save_checkpoint
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from PIL import Image

from model_zoo import tiny_model_cfg
from pgseg_mm.models import PGSeg

CLASSES = ['background', 'dog', 'grass', 'sky', 'car']
SIZES = [(40, 56), (32, 32), (20, 70)]


def sharp_model_cfg(threshold: float | None = 0.5, naming: str = 'affinity') -> dict:
    sharp = dict(type='ImageTextContrastiveLoss', temperature=0.01)
    head = {
        **tiny_model_cfg()['decode_head'],
        'background_threshold': threshold,
        'loss_contrastive': sharp,
        'naming': naming,
    }
    slide = dict(mode='slide', crop_size=(32, 32), stride=(16, 16))
    return tiny_model_cfg(decode_head=head, test_cfg=slide)


def sharp_model(threshold: float | None = 0.5, naming: str = 'affinity') -> PGSeg:
    """A random model whose groups differ."""
    torch.manual_seed(0)
    built = MODELS.build(sharp_model_cfg(threshold, naming)).eval()
    with torch.no_grad():
        for weight in built.backbone.parameters():
            weight.mul_(20 if weight.ndim > 1 else 1)
    built.set_vocabulary(CLASSES)
    return built


def write_labelled_images(root: Path) -> Path:
    """Write a config with a test and a validation set of three images each, and the images.

    Args:
        root: Folder for all of them.

    Returns:
        The config, with the checkpoint ``weights.pth`` beside it.
    """
    rng = np.random.default_rng(0)
    for folder in ('images', 'masks', 'other_masks'):
        (root / folder).mkdir()
    for i, size in enumerate(SIZES):
        coarse = rng.integers(256, size=(5, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size[::-1]).save(root / 'images' / f'{i}.png')
        for folder in ('masks', 'other_masks'):
            mask = rng.integers(5, size=size, dtype=np.uint8)
            mask[:3] = 255
            Image.fromarray(mask).save(root / folder / f'{i}.png')

    def loader(masks: str) -> dict:
        return dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(
                type='BaseSegDataset',
                data_root=str(root),
                data_prefix=dict(img_path='images', seg_map_path=masks),
                metainfo=dict(classes=CLASSES),
                img_suffix='.png',
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='LoadAnnotations'),
                    dict(type='PackSegInputs'),
                ],
            ),
        )

    metric = dict(type='IoUMetric', iou_metrics=['mIoU'])
    cfg = Config(
        dict(
            default_scope='mmseg',
            custom_imports=dict(imports=['pgseg_mm']),
            model=sharp_model_cfg(),
            test_dataloader=loader('masks'),
            val_dataloader=loader('other_masks'),
            test_evaluator=metric,
            val_evaluator=metric,
            test_cfg=dict(type='TestLoop'),
            val_cfg=dict(type='ValLoop'),
            custom_hooks=[dict(type='VocabularyHook')],
            work_dir=str(root / 'work'),
        )
    )
    cfg.dump(root / 'config.py')
    register_all_modules()
    weights = dict(state_dict=sharp_model().state_dict())
    save_checkpoint(weights, str(root / 'weights.pth'))
    return root / 'config.py'
