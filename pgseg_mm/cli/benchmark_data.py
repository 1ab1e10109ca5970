"""Where the data of a benchmark must lie, and what to do if they do not."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmseg.registry import DATASETS

from .parts import type_of

DATA_ROOT = 'PGSEG_DATA_ROOT'
"""Environment variable with the folder of all data sets, as the benchmark configs read it."""


def missing_data(cfg: Mapping[str, Any], split: str = 'test') -> list[str]:
    """What a benchmark needs on the disk and does not find there.

    Args:
        cfg: A config with ``benchmark``, as those of ``configs/_base_/benchmarks`` have it; of
            others nothing is known, and nothing missed.
        split: ``'test'`` or ``'val'``.

    Returns:
        Folders of images or label maps and lists of images that do not exist, or a pattern of label
        maps that no file fits; empty if everything is in place.
    """
    loader = cfg.get(f'{split}_dataloader')
    if not loader or not cfg.get('benchmark'):
        return []
    dataset = loader['dataset']
    if 'data_prefix' not in dataset or dataset.get('backend_args'):
        return []  # a wrapper, or files elsewhere than on the disk
    root = Path(dataset.get('data_root') or '')
    images, maps = (root / dataset['data_prefix'][key] for key in ('img_path', 'seg_map_path'))
    missing = [str(folder) for folder in (images, maps) if not folder.is_dir()]
    if dataset.get('ann_file') and not (root / dataset['ann_file']).is_file():
        missing.append(str(root / dataset['ann_file']))
    pattern = f'*{_map_suffix(dataset)}'
    if maps.is_dir() and next(maps.rglob(pattern), None) is None:
        missing.append(str(maps / pattern))
    return missing


def require_data(cfg: Mapping[str, Any], split: str = 'test') -> None:
    """Refuse a config whose benchmark has no data, before anything is loaded.

    Args:
        cfg: A config, as for :func:`missing_data`.
        split: ``'test'`` or ``'val'``.

    Raises:
        FileNotFoundError: Something is missing.
    """
    missing = missing_data(cfg, split)
    if not missing:
        return
    benchmark, root = cfg['benchmark'], os.environ.get(DATA_ROOT)
    without = '; to train without, add --cfg-options val_dataloader=None' if split == 'val' else ''
    now = f'not set, so it is data in {Path.cwd()}' if root is None else f'now {root}'
    raise FileNotFoundError(
        f'{benchmark["name"]} needs {", ".join(missing)}, which cannot be found. If the data lie '
        f'elsewhere, set the environment variable {DATA_ROOT} to the folder of all data sets '
        f'({now}); to prepare them, {benchmark["prepare"]} (see docs/zero_shot.md){without}'
    )


def leaf_datasets(dataset: Mapping[str, Any]) -> list[Any]:
    """Configs of the data sets that read files, inside of what wraps or joins them.

    Args:
        dataset: Config of a data set, such as a ``RepeatDataset`` or a ``ConcatDataset``.
    """
    inner = dataset.get('datasets') or dataset.get('dataset')
    if not inner:
        return [dataset]
    parts = [inner] if isinstance(inner, Mapping) else inner
    return [leaf for part in parts for leaf in leaf_datasets(part)]


def image_folder(dataset: Mapping[str, Any]) -> str | None:
    """Folder that the images of a data set lie in, by its config; ``None`` for a wrapper."""
    images = (dataset.get('data_prefix') or {}).get('img_path')
    return None if images is None else os.path.join(dataset.get('data_root') or '', images)


def _map_suffix(dataset: Mapping[str, Any]) -> str:
    if 'seg_map_suffix' in dataset:
        return dataset['seg_map_suffix']
    parameters = inspect.signature(type_of(dataset, DATASETS)).parameters
    return parameters['seg_map_suffix'].default
