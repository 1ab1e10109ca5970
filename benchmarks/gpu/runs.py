"""Whether whole runs are right: killed and resumed, and as a job of one rank."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .made_data import make_scenes
from .stage import ROOT, TINY, Piece, Stage

sys.path.append(str(ROOT / 'tests' / 'helpers'))
import killed_runs  # noqa: E402, a library may have a package tests, too

SCENES = """
_base_ = {base!r}
custom_imports = dict(imports=['pgseg_mm', 'tell'], allow_failed_imports=False)
randomness = dict(seed=0)
data_root = {data!r}
model = dict(decode_head=dict(loss_npr=dict(begin=0)))
optim_wrapper = dict(type={wrapper!r}, **{precision!r})
train_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False,
    dataset=dict(dataset=dict(data_root=data_root)))
val_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    dataset=dict(data_root=data_root, metainfo=dict(classes=data_root + 'classes.txt')))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
train_cfg = dict(max_iters=4, val_interval=2)
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=2, save_best='mIoU', max_keep_ckpts=5))
custom_hooks = [dict(type='VocabularyHook'), dict(type='TellHook')]
"""
TELL = """
import json
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmseg.registry import HOOKS


@HOOKS.register_module()
class TellHook(Hook):
    '''Writes down what a run was.'''

    def before_train(self, runner):
        self.first = runner.iter

    def after_val_epoch(self, runner, metrics=None):
        self.metrics = metrics

    def after_run(self, runner):
        group = torch.distributed
        told = dict(
            backend=group.get_backend() if group.is_initialized() else None,
            device=next(runner.model.parameters()).device.type,
            first=self.first, last=runner.iter, miou=float(self.metrics['mIoU']))
        Path(runner.work_dir, 'told.json').write_text(json.dumps(told))
"""


def _resume(folder: Path, deterministic: bool) -> list[str]:
    """Train whole, and killed and resumed.

    Returns:
        What differs in the last checkpoints.

    Raises:
        RuntimeError: If a run fails that should not.
    """
    config = killed_runs.write_config(
        folder / 'config.py', folder.parent / 'pairs', workers=0, by_epoch=False
    )
    options = ['--cfg-options', 'randomness.seed=3', f'randomness.deterministic={deterministic}']

    def train(name: str, kills: Sequence[str]) -> None:
        for kill in kills:
            done = killed_runs.train(config, folder / name, '--resume', *options, kill=kill)
            if killed_runs.was_killed(done) != bool(kill) or (done.returncode != 0) != bool(kill):
                raise RuntimeError(f'exit status {done.returncode}: …{done.stderr[-400:]}')

    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(train, ('whole', 'killed'), ([''], ['9:after:0', ''])):
            pass  # raises what a run has raised
    expected, found = (killed_runs.last_checkpoint(folder / name) for name in ('whole', 'killed'))
    differ = []
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'data_state'):
        try:
            killed_runs.assert_equal(expected[key], found[key], key)
        except AssertionError as error:
            differ.append(str(error).split('\n')[0])
    return differ


def killed_and_resumed(stage: Stage, folder: Path) -> Piece:
    """A run that is killed and resumed beside one that is not."""
    killed_runs.make_pairs(folder / 'pairs')
    try:
        differ = _resume(folder / 'deterministic', deterministic=True)
        how = "torch's deterministic mode"
    except RuntimeError as error:
        if 'deterministic' not in str(error):
            raise
        differ = _resume(folder / 'plain', deterministic=False)
        how = f'not deterministic, because of: {str(error)[-200:]}'
        return Piece(f'{how}; differs in: {differ or "nothing"}', passed=None)
    return Piece(
        f'weights, EMA, optimizer, schedulers and data state are equal bit for bit ({how})'
        if not differ
        else f'differs in: {", ".join(differ)} ({how})',
        passed=not differ,
    )


def write_scenes_config(folder: Path, wrapper: str = 'OptimWrapper', **precision: Any) -> Path:
    """A run of the tiny model on scenes that are made here, with validation."""
    make_scenes(folder / 'data', 16, (64, 64), 4)
    (folder / 'tell.py').write_text(TELL, encoding='utf-8')
    path = folder / 'scenes.py'
    data = f'{folder}/data/'
    text = SCENES.format(base=str(TINY), data=data, wrapper=wrapper, precision=precision)
    path.write_text(text, encoding='utf-8')
    return path


def distributed(stage: Stage, folder: Path) -> Piece:
    """tools/dist_train.sh trains, validates, saves and resumes."""
    config = write_scenes_config(folder)
    work_dir = folder / 'work'
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    paths = stage.environment['PYTHONPATH']
    env = {
        'PYTHON': sys.executable,
        'PORT': str(port),
        'PYTHONPATH': os.pathsep.join([str(folder), paths]),
    }
    command = ['bash', str(ROOT / 'tools/dist_train.sh'), str(config), '1', '--work-dir']
    command.append(str(work_dir))
    told = []
    for more in ([], ['--resume', '--cfg-options', 'train_cfg.max_iters=6']):
        stage.script([*command, *more], env)
        told.append(json.loads((work_dir / 'told.json').read_text(encoding='utf-8')))
    expected = {'cuda': 'nccl', 'cpu': 'gloo'}[stage.device]
    spans = [(run['first'], run['last']) for run in told]
    saved = sorted(path.name for path in work_dir.glob('*.pth'))
    return Piece(
        f'backend {told[0]["backend"]} on {told[0]["device"]}, steps {spans[0]} and, resumed, '
        f'{spans[1]}; mIoU {told[0]["miou"]:.2f} and {told[1]["miou"]:.2f}; saved {saved}',
        passed=all(
            run['backend'] == expected and run['device'] == stage.device and run['miou'] >= 0
            for run in told
        )
        and spans == [(0, 4), (4, 6)]
        and {'iter_4.pth', 'iter_6.pth'} <= set(saved),
    )
