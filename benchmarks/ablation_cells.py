"""A single run of the ablation: its config, its data, and the key by which its result is found."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config

from demo.demo_config import ROOT, make_config, replace_folder
from demo.demo_data import Scenes

from .ablation_rows import DATA, ROWS, SOFT, STAGES, Options

CONFIG = ROOT / 'configs/pgseg/pgseg_tiny-p8_emoji-scenes-64x64.py'
EVALUATION = 1
"""Counts what is measured: another number, and nothing measured before counts."""
DECISIVE = ('model', 'optim_wrapper', 'param_scheduler', 'train_dataloader', 'train_cfg')
"""Parts of a config that decide the outcome, and which alone may be overridden: others are in no
run's key."""
INDIFFERENT = (
    'num_workers',
    'persistent_workers',
    'prefetch_factor',
    'pin_memory',
    'non_blocking',
    'fused',
)
NEW_SEED = 1
"""The converter's seed for the scenes that no choice was made on; that of the others is 0."""
CURVE_POINTS = 4


@dataclass(frozen=True)
class World:
    """Scenes to train on, those of the demo in number and kind, and new ones to be judged by."""

    train: Scenes
    new: Scenes

    @classmethod
    def of(
        cls, classes: int, num_train: int = 16000, num_new: int | None = None, image_size: int = 64
    ) -> World:
        """A world of that many classes; ``num_new`` grows with them by default."""
        if num_new is None:
            num_new = 500 if classes <= 50 else 1000
        sizes = {'num_classes': classes, 'image_size': image_size}
        return cls(
            train=Scenes(num_train=num_train, num_val=0, **sizes),
            new=Scenes(num_train=0, num_val=num_new, seed=NEW_SEED, **sizes),
        )

    def folders(self, data: Path) -> dict[str, Path]:
        """Folders of both within that of the ablation's data."""
        name = f'{self.train.num_classes}_classes'
        return {'train': data / f'{name}_train', 'new': data / f'{name}_new'}


@dataclass(frozen=True)
class Cell:
    """A run: a row of the table at one scale, with one seed."""

    row: str
    world: World
    stages: int = 1
    seed: int = 0
    iterations: int = 500
    options: Options = field(default_factory=dict)
    """Options of the command line, for all rows."""

    @property
    def classes(self) -> int:
        return self.world.train.num_classes

    @property
    def name(self) -> str:
        """The run in words."""
        stages = f'{self.stages} stage' + 's' * (self.stages > 1)
        return f'{self.row}, {self.classes} classes, {stages}, seed {self.seed}'

    def make_config(self, data: Path, work_dir: Path) -> Config:
        """The run's config.

        Args:
            data: Folder of the ablation's data.
            work_dir: Folder of the run.
        """
        folders = {name: path.as_posix() for name, path in self.world.folders(data).items()}
        options = {**STAGES[self.stages], **ROWS[self.row], **self.options}
        cfg = make_config(
            CONFIG,
            data=Path(folders['train']),
            work_dir=work_dir,
            seed=self.seed,
            image_size=self.world.train.image_size,
            max_iters=self.iterations,
            options=replace_folder(options, DATA, folders['train']),
        )
        cfg.model.test_cfg.pop('pamr', None)  # rows differ by their groups, which it improves
        if SOFT not in options:
            cfg.model.backbone.pop('hard_assign', None)  # the default is PGSeg's
        # judged by new scenes, in the run's own process (ablation_run.py)
        loader = replace_folder(cfg.test_dataloader.to_dict(), folders['train'], folders['new'])
        cfg.new_dataloader = {**loader, 'num_workers': 0, 'persistent_workers': False}
        for loop in ('val', 'test'):
            for part in ('dataloader', 'evaluator', 'cfg'):
                cfg[f'{loop}_{part}'] = None
        cfg.default_hooks.checkpoint.update(interval=self.curve_interval, max_keep_ckpts=1)
        return cfg

    @property
    def curve_interval(self) -> int:
        """Iterations from one point of the curve to the next."""
        return max(self.iterations // CURVE_POINTS, 1)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the run is, for its result."""
        return {
            'row': self.row,
            'classes': self.classes,
            'stages': self.stages,
            'seed': self.seed,
            'iterations': self.iterations,
            'options': {name: str(value) for name, value in self.options.items()},
            'train': asdict(self.world.train),
            'new': asdict(self.world.new),
            'evaluation': EVALUATION,
            **self._decided(),
        }

    @cached_property
    def key(self) -> str:
        """What the run's result is found by: changes with all that rows and options may change."""
        # the config has the row and the options in it
        shown = ('row', 'options', 'naming', 'batch_size')
        settings = {name: value for name, value in self.settings.items() if name not in shown}
        return _sha256(settings)[:20]

    def _decided(self) -> dict[str, Any]:
        """What is read from the config, which is the same for all seeds."""
        same = replace(self, seed=0)
        name = repr(same)
        if name not in _known:
            cfg = same.make_config(Path('data'), Path('work_dir')).to_dict()
            _known[name] = {
                'naming': cfg['model']['decode_head']['naming'],
                'batch_size': cfg['train_dataloader']['batch_size'],
                'config_sha256': _sha256(_without({part: cfg.get(part) for part in DECISIVE})),
            }
        return _known[name]


_known: dict[str, dict[str, Any]] = {}


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _without(value: Any) -> Any:
    """A copy without settings that do not change the outcome, at any depth."""
    if isinstance(value, dict):
        return {name: _without(part) for name, part in value.items() if name not in INDIFFERENT}
    if isinstance(value, (list, tuple)):
        return [_without(part) for part in value]
    return value
