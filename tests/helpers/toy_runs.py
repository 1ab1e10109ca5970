"""A run that takes a fraction of a second: a linear model on invented numbers."""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmseg.registry import DATASETS, HOOKS, MODELS
from mmseg.structures import SegDataSample
from torch import nn
from torch.utils.data import get_worker_info

from pgseg_mm.datasets.sampling.sample_key import READ_RECORD, ReadRecord, SampleKey
from pgseg_mm.serialization.runner_checkpoints import load_checkpoints_safely

SIZE = 22
BATCH_SIZE = 4


@MODELS.register_module(force=True)
class ToyModel(BaseModel):
    """Regression with dropout; the loss is NaN for a target that is."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))

    def forward(self, inputs, target, data_samples, mode='loss'):
        return dict(loss=(self.layers(inputs) - target[:, None]).square().mean())


@DATASETS.register_module(force=True)
class ToyDataset:
    """Numbers that depend on the sample, and noise; every fifth sample was hard to find."""

    takes_sample_keys = True
    metainfo: dict = {}

    def __init__(
        self, nan_at: int = -1, stream: bool = False, skip: int = 1, size: int = SIZE
    ) -> None:
        self.nan_at, self.is_stream, self.skip, self.size = nan_at, stream, skip, size
        self.read: list[SampleKey] = []
        self.progress: list[dict] = []

    def __len__(self):
        return self.size

    def set_progress(self, **progress):
        self.progress.append(progress)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        self.read.append(key)
        generator = torch.Generator().manual_seed(key.seed)
        skipped = {'toys': {'broken image': self.skip}} if key.sample % 5 == 0 else {}
        source = 'toys' if key.sample % 2 else 'games'
        state = {'at': key.position} if self.is_stream else None
        record = ReadRecord(source, f'toy {key.sample}', skipped, self._stream(), state)
        return dict(
            inputs=torch.rand(3, generator=generator),
            target=torch.tensor(float('nan') if key.sample == self.nan_at else 0.1 * key.sample),
            data_samples=SegDataSample(metainfo={READ_RECORD: record}),
        )

    def _stream(self) -> int:
        """The stream that is read from, which is dealt out to workers from the first one on."""
        worker = get_worker_info()
        if worker is None or not self.is_stream:
            return 0
        return (worker.id + self.progress[-1]['first_worker']) % worker.num_workers


class InterruptedError(Exception):
    """Stands for a kill."""


@HOOKS.register_module(force=True)
class InterruptHook(Hook):
    """Ends a run behind a step, as a kill would; nothing comes after it."""

    priority = 'LOWEST'

    def __init__(self, at: int = -1) -> None:
        self.at = at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.at:
            raise InterruptedError


def toy_config(folder: Path, train_cfg: dict | None = None, **settings: Any) -> Config:
    """A config of a run.

    Args:
        folder: Work directory.
        train_cfg: Loop; by default 16 iterations.
        settings: ``interrupt``, ``seed``, ``dataset``, ``checkpoint``, ``data_state``,
            ``batch_size``, ``workers``: what to change.
    """
    train_cfg = train_cfg or dict(type='ResumableIterLoop', max_iters=16)
    infinite = 'max_iters' in train_cfg
    return Config(
        dict(
            default_scope='mmseg',
            work_dir=str(folder),
            experiment_name=f'{folder.parent.name}_{folder.name}_{len(list(folder.glob("*")))}',
            model=dict(type='ToyModel'),
            train_dataloader=dict(
                batch_size=settings.get('batch_size', BATCH_SIZE),
                num_workers=settings.get('workers', 0),
                drop_last=True,
                sampler=dict(type='ResumableSampler', infinite=infinite),
                collate_fn=dict(type='default_collate'),
                dataset=dict(type='ToyDataset', **settings.get('dataset', {})),
            ),
            train_cfg=train_cfg,
            optim_wrapper=dict(
                type='OptimWrapper',
                optimizer=dict(type='AdamW', lr=0.1),
                **settings.get('optim_wrapper', {}),
            ),
            param_scheduler=[dict(type='LinearLR', start_factor=0.1, end=8, by_epoch=False)],
            randomness=dict(seed=settings.get('seed'), diff_rank_seed=True),
            default_hooks=dict(
                checkpoint=dict(
                    type='SafeCheckpointHook',
                    **{'by_epoch': False, 'interval': 3, **settings.get('checkpoint', {})},
                ),
                logger=dict(type='LoggerHook', interval=2),
                step_seed=dict(type='StepSeedHook'),
                data_state=dict(type='DataStateHook', **settings.get('data_state', {})),
                finite_loss=dict(type='FiniteLossHook'),
            ),
            custom_hooks=[
                dict(type='EMAHook'),
                dict(type='InterruptHook', at=settings.get('interrupt', -1)),
            ],
            resume=settings.get('resume', False),
            launcher=settings.get('launcher', 'none'),
            log_level='WARNING',
        )
    )


def run_toy(folder: Path, train_cfg: dict | None = None, **settings: Any) -> Runner:
    """Train to the end, or until it is interrupted.

    Returns:
        The runner.
    """
    load_checkpoints_safely()  # as tools/train.py does
    runner = Runner.from_cfg(toy_config(folder, train_cfg, **settings))
    try:
        runner.train()
    except InterruptedError:
        assert runner.iter + 1 == settings['interrupt']
    return runner


def read_by(runner: Runner) -> list[tuple[int, int]]:
    """Numbers and seeds of the samples that a run has read."""
    return [(key.sample, key.seed) for key in runner.train_dataloader.dataset.read]
