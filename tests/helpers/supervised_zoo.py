"""Miniatures of ADE20K and Pascal VOC to train on, and runs on them at reduced size."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

ROOT = Path(__file__).parents[2]
SIZE = (32, 40)
NAMES = ('a', 'b', 'c', 'd')
COLOURS = np.array([[220, 40, 40], [40, 200, 60], [50, 60, 220]], np.uint8)
"""Colours of the three classes that occur, in RGB."""


def write_scene(rng: np.random.Generator, image: Path, label_map: Path, first: int) -> None:
    """Write fields of one colour for each class, and their labels, counted from ``first``."""
    classes = rng.integers(0, 3, (2, 3)).repeat(16, 0).repeat(16, 1)[: SIZE[0], : SIZE[1]]
    noise = rng.integers(-15, 16, (*SIZE, 3))
    for path, pixels in ((image, COLOURS[classes] + noise), (label_map, classes + first)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_ade20k(root: Path) -> None:
    """ADE20K below a data root; its label 0 is no class."""
    rng = np.random.default_rng(0)
    folder = root / 'ade' / 'ADEChallengeData2016'
    for split in ('training', 'validation'):
        for name in NAMES:
            image = folder / 'images' / split / f'{name}.jpg'
            write_scene(rng, image, folder / 'annotations' / split / f'{name}.png', first=1)


def write_voc(root: Path) -> None:
    """Pascal VOC 2012 below a data root, with the masks of SBD for two of its images."""
    rng = np.random.default_rng(0)
    folder = root / 'VOCdevkit' / 'VOC2012'
    splits = folder / 'ImageSets' / 'Segmentation'
    splits.mkdir(parents=True)
    for split, names, masks in (
        ('train', NAMES[:1], 'SegmentationClass'),
        ('aug', NAMES[1:3], 'SegmentationClassAug'),
        ('val', NAMES[3:], 'SegmentationClass'),
    ):
        (splits / f'{split}.txt').write_text(''.join(f'{name}\n' for name in names))
        for name in names:
            image = folder / 'JPEGImages' / f'{name}.jpg'
            write_scene(rng, image, folder / masks / f'{name}.png', first=0)


def _parts(value: object) -> Iterator[dict]:
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, (dict, list, tuple)):
            yield from _parts(part)


SMALL_STEPS = {
    'RandomResize': {'scale': (80, 32)},
    'RandomCrop': {'crop_size': (32, 32)},
    'Resize': {'scale': (80, 32)},
    'SyncBN': {'type': 'BN'},
}
"""Settings of parts, by their type, with which images are small and no GPU is needed."""


def small_config(path: Path, options: dict, work_dir: Path) -> Config:
    """A config with small images and few steps, that stays in this process.

    Args:
        path: Config file.
        options: What else to override, such as the sizes of the model.
        work_dir: Folder for what the run writes.
    """
    cfg = Config.fromfile(path)
    for part in _parts(cfg._cfg_dict):
        part.update(SMALL_STEPS.get(part.get('type'), {}))
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.batch_size = 2
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.interval = 2
    cfg.default_hooks.logger.interval = 1
    cfg.model.data_preprocessor.size = (32, 32)
    cfg.model.test_cfg.update(crop_size=(32, 32), stride=(24, 24))
    cfg.merge_from_dict(options)
    cfg.work_dir = str(work_dir)
    cfg.randomness = {**cfg.get('randomness', {}), 'seed': 0}
    cfg.experiment_name = f'{path.stem}_{work_dir.parent.name}_{work_dir.name}'
    return cfg


def trained(cfg: Config) -> Runner:
    """The runner of a config after its training."""
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def metric(runner: Runner, name: str = 'mIoU') -> float:
    """Last value of a metric of the validation."""
    return runner.message_hub.get_scalar(f'val/{name}').current()


def losses(runner: Runner, name: str = 'loss') -> list[float]:
    """A loss at each step."""
    values, _ = runner.message_hub.get_scalar(f'train/{name}').data
    return values.tolist()


def without_gradient(runner: Runner) -> list[str]:
    """Parameters that no step moved; DistributedDataParallel would wait for them."""
    moved = runner.optim_wrapper.optimizer.state
    return [
        name
        for name, value in runner.model.named_parameters()
        if value.requires_grad and value not in moved
    ]
