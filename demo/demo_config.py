"""The demo's config: one from the repository, pointed at the demo's data and folders."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from pgseg_mm.cli.config_files import override, read_config_file
from pgseg_mm.cli.run_configs import drop_unused

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_CONFIG = Path('configs/pgseg/pgseg_tiny-p8_emoji-scenes-64x64_late-interaction.py')
"""Relative to the root of the repository."""
STEP_KEYS = ('begin', 'end', 'T_max', 'warmup')
"""Arguments of schedulers that count iterations."""


def existing_config(path: Path) -> Path:
    """A config by its path from here or, if there is none, from the root of the repository.

    Raises:
        FileNotFoundError: If there is none, either.
    """
    for candidate in (path, ROOT / path):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f'no config {path}, neither from here nor from the repository')


def make_config(
    path: Path,
    data: Path,
    work_dir: Path,
    seed: int,
    image_size: int,
    max_iters: int | None,
    options: dict[str, Any] | None = None,
) -> Config:
    """Read the config and point it at the demo's data and folders.

    Args:
        path: Config whose data set is made by the emoji-scenes converter.
        data: Folder of the data set.
        work_dir: Folder for logs and checkpoints.
        seed: Seed of the training.
        image_size: Side of the images in pixels.
        max_iters: Iterations to train; the schedule is stretched or shrunk to them. ``None`` keeps
            the config's.
        options: Settings of the config to override, by their dotted names.

    Raises:
        ValueError: If the config has no ``data_root`` or no checkpoint hook, or trains by epochs.
    """
    cfg = read_config_file(path)
    if 'data_root' not in cfg:
        raise ValueError(f'{path} has no data_root, so its data set cannot be replaced')
    if 'max_iters' not in (cfg.get('train_cfg') or {}):
        raise ValueError(f'{path} does not train by iterations: train_cfg has no max_iters')
    cfg = Config(replace_folder(cfg.to_dict(), cfg.data_root, data.as_posix()))
    override(cfg, options)
    cfg.work_dir = str(work_dir)
    cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': seed}
    if 'model.backbone.img_size' not in (options or {}):
        cfg.model.backbone.img_size = image_size
    if max_iters is not None:
        stretch_schedule(cfg, max_iters)
    # the last weights count: no choice by the images that the demo evaluates on
    hooks = cfg.get('default_hooks') or {}
    if not hooks.get('checkpoint'):
        raise ValueError('the demo draws what the last checkpoint predicts; keep its hook')
    hooks['checkpoint'].pop('save_best', None)
    # the demo draws pictures of its own
    hooks.pop('visualization', None)
    drop_unused(cfg, 'train')
    # a visualizer for each run, instead of one with this name for all
    (cfg.get('visualizer') or {}).pop('name', None)
    return cfg


def seed_of(path: Path, options: Mapping[str, Any] | None) -> int:
    """The seed of a config and settings that override it; 0 if they have none.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If it is no whole number.
    """
    cfg = read_config_file(existing_config(path))
    override(cfg, options)
    seed = (cfg.get('randomness') or {}).get('seed') or 0
    if not isinstance(seed, int):
        raise ValueError(f'randomness.seed must be a whole number, got {seed!r}')
    return seed


def replace_folder(value: Any, old: str, new: str) -> Any:
    """Replace a folder in all the paths of a config, at any depth.

    Args:
        value: A string, or dicts, lists and tuples of anything.
        old: The folder.
        new: What takes its place.

    Returns:
        A copy with all strings changed that are the folder or lie in it.
    """
    if isinstance(value, str):
        old = old.rstrip('/')
        inside = value == old or value.startswith(f'{old}/')
        return new.rstrip('/') + value[len(old) :] if inside else value
    if isinstance(value, dict):
        return {key: replace_folder(entry, old, new) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(replace_folder(entry, old, new) for entry in value)
    return value


def stretch_schedule(cfg: Config, max_iters: int) -> None:
    """Train longer or shorter, with learning rate and NPR loss at the same share of the way.

    Args:
        cfg: The config, changed in place.
        max_iters: Iterations to train, at least two.

    Raises:
        ValueError: If they are fewer than two.
    """
    if max_iters < 2:
        raise ValueError(f'--max-iters must be at least 2, got {max_iters}')
    factor = max_iters / cfg.train_cfg.max_iters
    cfg.train_cfg.max_iters = max_iters
    cfg.train_cfg.val_interval = math.ceil(cfg.train_cfg.get('val_interval', 1) * factor)
    schedulers = cfg.get('param_scheduler') or []
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        for name in STEP_KEYS:
            if name in scheduler:
                scheduler[name] = math.ceil(scheduler[name] * factor)
    npr = cfg.model.decode_head.get('loss_npr') or {}
    for name in ('begin', 'ramp'):
        if name in npr:
            npr[name] = math.ceil(npr[name] * factor)
    logger = cfg.default_hooks.logger
    logger.interval = min(logger.get('interval', 10), max(max_iters // 20, 1))
