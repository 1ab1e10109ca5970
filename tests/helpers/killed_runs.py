"""Trains a tiny model with the project's tools, kills the run, and resumes it."""

import io
import json
import os
import random
import signal
import socket
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from prepared_interpreter import launchers
from prepared_processes import run_python, run_ranks

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'pgseg' / 'pgseg_tiny-p8_emoji-scenes-64x64.py'
NUM_IMAGES = 44
NUM_SHARDS = 5
SAVED_EVERY = 3
BATCH_SIZE = 4

KILLER = """
import os
import signal
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

from pgseg_mm.engine.hooks import atomic_backend


@HOOKS.register_module()
class KillHook(Hook):
    '''Kills its own process; what happens is told by KILL=STEP:WHEN:RANK.'''

    priority = 'LOWEST'

    def __init__(self):
        step, self.when, rank = os.environ.get('KILL', '-1:none:0').split(':')
        self.step, self.rank = int(step), int(rank)
        if self.when == 'saving':
            atomic_backend.write_synced = self.write_a_part

    def kill(self, runner, when):
        if self.when == when and self.step == runner.iter + 1 and self.rank == get_rank():
            Path(runner.work_dir, 'killed').touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.runner = runner
        self.kill(runner, 'before')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.kill(runner, 'after')

    def write_a_part(self, path, content):
        with path.open('wb') as file:
            file.write(bytes(content)[:len(content) // 2])
            file.flush()
            self.kill(self.runner, 'saving')
            file.write(bytes(content)[len(content) // 2:])
"""


MODEL = """
model = dict(
    backbone=dict(
        img_size=32,
        embed_dims=24,
        depths=(1, 1, 1),
        num_group_tokens=(6, 4, 0),
        num_output_groups=(6, 4),
        drop_path_rate=0.3,
        hard_assign=True,  # with Gumbel noise
        prototypes=dict(hidden_channels=24),
    ),
    text_encoder=dict(embed_dims=16, num_layers=1, num_heads=2),
    decode_head=dict(
        in_channels=24,
        channels=16,
        text_channels=16,
        hidden_channels=24,
        loss_npr=dict(begin=2),
    ),
)
"""
REGIONS = """
model['data_preprocessor'] = dict(
    batch_augments=dict(
        augments=[dict(type='PasteImages', grid=4, sizes=(1, 2)), dict(type='MosaicImages')],
        probs=[0.4, 0.3],
    ),
    prompts_apart=True,
)
model['decode_head'].update(
    loss_contrastive=dict(type='RegionTextContrast'),
    loss_multi_label=dict(type='LateInteractionLoss'),
)
"""
PROMPTS = "dict(type='NamePrompts', names=['picture', 'thing'], num_prompts=3),"
PUBLISHED = """
model['data_preprocessor'] = dict(batch_augments=None)
model['decode_head'].update(
    loss_contrastive=dict(type='ImageTextContrastiveLoss'), naming='affinity'
)
"""


def make_pairs(folder: Path) -> Path:
    """Images of noise with captions, as files and in tar shards; some in the shards are broken."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(NUM_IMAGES):
        image = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'{number}.png'), image)
        rows.append({'image': f'{number}.png', 'caption': f'a picture of thing {number}'})
    lines = '\n'.join(json.dumps(row) for row in rows)
    (folder / 'captions_train.jsonl').write_text(lines + '\n')
    for shard in range(NUM_SHARDS):
        with tarfile.open(folder / f'{shard:05d}.tar', 'w') as tar:
            for number in range(shard, NUM_IMAGES, NUM_SHARDS):
                image = (folder / f'{number}.png').read_bytes()
                _add(tar, f'{number:04d}.png', image[: 60 if number % 9 == 5 else None])
                _add(tar, f'{number:04d}.txt', rows[number]['caption'].encode())
    return folder


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_config(
    path: Path,
    data: Path,
    workers: int,
    by_epoch: bool,
    shards: bool = False,
    regions: bool = True,
) -> Path:
    """A config in which everything that is random, or has a state of its own, is live.

    With ``regions`` images are joined, and prompts meet single groups of their regions; without,
    the contrast is the published one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / 'killer.py').write_text(KILLER)
    loop = dict(type='ResumableIterLoop', max_iters=16)
    if by_epoch:
        loop = dict(type='ResumableEpochLoop', max_epochs=3)
    dataset = _of_shards(data) if shards else dict(dataset=dict(data_root=f'{data}/'))
    path.write_text(
        f"""
_base_ = {str(CONFIG)!r}
custom_imports = dict(imports=['pgseg_mm', 'killer'], allow_failed_imports=False)
{MODEL}{REGIONS if regions else PUBLISHED}train_pipeline = [
    dict(type='{'DecodeImage' if shards else 'LoadImageFromFile'}'),
    dict(type='mmpretrain.RandomResizedCrop', scale=32, crop_ratio_range=(0.3, 1.0)),
    dict(type='RandomFlip', prob=0.5),
    {PROMPTS if regions else ''}
    dict(type='TokenizeCaption', context_length=40),
    dict(type='PackImageTextInputs'),
]
train_dataloader = dict(
    batch_size={BATCH_SIZE},
    num_workers={workers},
    persistent_workers={workers > 0},
    sampler=dict(infinite={not by_epoch}),
    dataset=dict({'pipeline=train_pipeline, ' if shards else ''}**{dataset!r}),
)
{'' if shards else "train_dataloader['dataset']['dataset']['pipeline'] = train_pipeline"}
train_cfg = dict(_delete_=True, **{loop!r})
param_scheduler = dict(
    _delete_=True, type='WarmupCosineLR', warmup=3, warmup_start=1e-5, end=40, by_epoch=False
)
val_dataloader = val_cfg = val_evaluator = None
test_dataloader = test_cfg = test_evaluator = None
custom_hooks = [dict(type='KillHook'), dict(type='EMAHook')]
default_hooks = dict(
    checkpoint=dict(interval={SAVED_EVERY}, save_best=None, max_keep_ckpts=1),
    logger=dict(interval=5),
    data_state=dict(max_skipped=0.5),
)
"""
    )
    return path


def _of_shards(data: Path) -> dict[str, Any]:
    source = dict(shards=f'{data}/{{00000..{NUM_SHARDS - 1:05d}}}.tar', name='noise')
    return dict(
        _delete_=True,
        type='WebImageTextDataset',
        sources=source,
        samples_per_epoch=NUM_IMAGES,
        shuffle_block=4,
    )


def train(
    config: Path,
    work_dir: Path,
    *arguments: str,
    processes: int = 1,
    kill: str = '',
    send: str = '',
) -> subprocess.CompletedProcess:
    """Run the training tool, to its end or until it is killed, or told to end."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    paths = (config.parent, ROOT)
    env = {
        **os.environ,
        'PORT': str(port),
        'PYTHONPATH': os.pathsep.join(
            filter(None, [*map(str, paths), os.environ.get('PYTHONPATH')])
        ),
        'OMP_NUM_THREADS': '1',
    }
    env |= {'KILL': kill} if kill else {}
    env |= {'SEND': send} if send else {}
    arguments = ('--work-dir', str(work_dir), *arguments)
    command = [ROOT / 'tools' / 'train.py', config, *arguments]
    if processes == 1:
        return run_python(command, env=env, timeout=200)
    if not kill and not send:  # then torchrun has nothing to do
        done = run_ranks(command, processes, env, timeout=200)
        return next((rank for rank in done if rank.returncode), done[0])
    command = ['bash', ROOT / 'tools' / 'dist_train.sh', config, str(processes), *arguments]
    return subprocess.run(
        command, env=env | launchers(), capture_output=True, text=True, check=False, timeout=200
    )


def last_checkpoint(work_dir: Path) -> dict[str, Any]:
    """The checkpoint that ``--resume`` would take; it was made by the test itself."""
    name = (work_dir / 'last_checkpoint').read_text()
    return torch.load(work_dir / name, weights_only=False)


def random_kills(number: int, steps: int, processes: int, seed: int) -> list[str]:
    """Where runs are killed: before or after a step, or while a checkpoint is written.

    Each is in a later step than the one before it, which a resumed run therefore comes to.
    """
    rng = random.Random(seed)
    kills = []
    for step in sorted(rng.sample(range(2, steps), number)):
        when = rng.choice(['before', 'after'] if step % SAVED_EVERY else ['after', 'saving'])
        kills.append(f'{step}:{when}:{0 if when == "saving" else rng.randrange(processes)}')
    return kills


def was_killed(done: subprocess.CompletedProcess) -> bool:
    """Whether the run ended by a kill, its own or that of a rank."""
    return done.returncode == -signal.SIGKILL or 'SIGKILL' in done.stderr + done.stdout


def assert_equal(one: Any, other: Any, where: str = '') -> None:
    """Assert that two nested structures hold the same tensors, bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f'{where}.{key}')
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f'{where}[{index}]')
    else:
        assert one == other, where
