"""The transforms that an image goes through before it is segmented."""

from __future__ import annotations

from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.utils import to_2tuple
from mmseg.registry import TRANSFORMS

from pgseg_mm.cli.benchmark_data import leaf_datasets
from pgseg_mm.cli.parts import type_name
from pgseg_mm.models import OpenVocabSegmentor

RESIZE = 'ResizeAnyShape'
LOADERS = ('LoadImageFromFile', 'DecodeImage')
ASPECT = 2048 / 448
"""Longest side over the shortest that a resized image has, as published."""


class Pipeline(NamedTuple):
    """Transforms of an image."""

    load: Compose
    """From a file to an array of uint8."""
    prepare: Compose
    """From an array to what the model takes."""
    to_float32: bool
    """Whether ``prepare`` takes float."""


def make_pipeline(cfg: Config | ConfigDict, model: OpenVocabSegmentor) -> Pipeline:
    """The transforms of a config's test set, without those that load label maps.

    Images are read by :class:`DecodeImage`. If nothing resizes them, they are brought to the size
    that the model knows, if any: the short side as long as a window, or as the images of the
    training, by the backbone's ``grid_size``.

    Args:
        cfg: Config with a ``test_dataloader`` or a ``test_pipeline``, or empty.
        model: The model.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    steps = [
        dict(step)
        for step in leaf_datasets(dataset)[0].get('pipeline') or cfg.get('test_pipeline') or []
    ]
    load: dict[str, Any] = {}
    prepare = []
    for step in steps:
        if type_name(step) in LOADERS:
            load = step
        elif not type_name(step).startswith('Load') and type_name(step) != 'PackSegInputs':
            prepare.append({**step, 'type': RESIZE} if type_name(step) == 'Resize' else step)
    if not any('Resize' in type_name(step) for step in prepare):
        prepare[:0] = _resize(model)
    return Pipeline(
        Compose([TRANSFORMS.build({**load, 'type': 'DecodeImage', 'to_float32': False})]),
        Compose([TRANSFORMS.build(step) for step in [*prepare, {'type': 'PackSegInputs'}]]),
        load.get('to_float32', False),
    )


def _resize(model: OpenVocabSegmentor) -> list[dict[str, Any]]:
    grid_size = getattr(model.backbone, 'grid_size', None)
    if model.test_cfg['mode'] == 'slide':
        side = min(to_2tuple(model.test_cfg['crop_size']))
    elif grid_size is not None:
        side = min(grid_size) * model.backbone.patch_size
    else:
        return []
    return [{'type': RESIZE, 'scale': (round(side * ASPECT), side), 'keep_ratio': True}]
