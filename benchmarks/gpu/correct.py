"""Whether training and prediction are right on this device."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS

from pgseg_mm.models.layers import NonLearnablePrototypes, SyncBatchNorm

from ..training_contestants import Model, Option, Settings, make_batch
from .made_data import make_scenes
from .stage import ROOT, TINY, Piece, Stage

sys.path.append(str(ROOT / 'tests' / 'helpers'))
import killed_runs  # noqa: E402, a library may have a package tests, too

PARITY = ('pgseg_tiny.npz', 'pgseg_vits16.npz')
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-8, 1e-6
"""Largest relative differences between devices, computed in float64."""
HALF_TOLERANCE = 0.02
"""Largest relative difference of the loss in half precision from that in float32."""
STEPS, AVERAGED, BATCHES = 50, 10, 16
"""Steps in each precision, how many of the last ones are averaged, and different batches."""
INITIAL_SCALE = 2.0**10
"""Of the gradients in fp16; at torch's own, 2 ** 16, the first steps are left out."""
WAITS = {
    ('models/data_preprocessor.py', None): 'the batch is copied to the device',
    ('base_model/data_preprocessor.py', None): 'the batch is copied to the device',
    ('logging/message_hub.py', None): 'losses are logged (RuntimeInfoHook)',
    ('optimizer/optimizer_wrapper.py', '_clip_grad'): "the gradient's norm is logged",
    ('hooks/finite_loss_hook.py', '_to_float'): 'the loss is looked at',
    ('device/utils.py', 'get_max_cuda_memory'): 'the log tells the memory, at its interval',
    ('amp/grad_scaler.py', None): 'the gradient scaler looks for an overflow (fp16)',
}
"""Where a training step may wait for the GPU: end of a file's path, function, and why.

Matching waits in threads of its own (pgseg_mm/models/losses/matching.py) and for those threads.
"""
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


def gpu_tests(stage: Stage) -> Piece:
    """All tests that are marked for GPUs."""
    mark = 'pytest.mark.gpu'
    here = Path(__file__).resolve()
    files = [
        path
        for path in sorted((ROOT / 'tests').rglob('test_*.py'))
        if mark in path.read_text(encoding='utf-8') and path != here
    ]
    if not files:
        raise RuntimeError(f'no test has the mark {mark}')
    options = ('-q', '-m', 'gpu', '-p', 'no:cacheprovider')
    done = stage.command('-m', 'pytest', *options, *files, check=False)
    last = (done.stdout.strip().splitlines() or [''])[-1]
    counts = {word: int(number) for number, word in re.findall(r'(\d+) (\w+)', last)}
    failed = done.returncode != 0
    if failed:
        failures = re.findall(r'^(?:FAILED|ERROR) .*', done.stdout, re.MULTILINE)
        last = '; '.join([last, *failures]) or done.stderr[-300:]
    if stage.device == 'cpu' and not failed:
        return Piece(f'{last}: they need a GPU', passed=None)
    return Piece(last, passed=not failed and counts.get('passed', 0) > 0)


def parity(stage: Stage, name: str) -> Piece:
    """A file of numbers of the authors' release, in float32 without TF32."""
    tool = ROOT / 'tools/analysis_tools/check_parity.py'
    file = ROOT / 'tests/data/parity' / name
    done = stage.command(tool, file, '--device', stage.device, '--dtype', 'float32', check=False)
    found = re.search(r'(\d+) of (\d+) keys agree', done.stdout)
    if found is None:
        raise RuntimeError(f'{tool.name} ended with {done.returncode}: {done.stderr[-300:]}')
    failed = [line for line in done.stdout.splitlines() if 'FAILED' in line]
    summary = '; '.join([f'{found[0]} within 1e-4', *failed])
    return Piece(summary, passed=done.returncode == 0 and found[1] == found[2])


def _losses_and_gradients(device: str, batch: int) -> tuple[dict[str, float], torch.Tensor]:
    cfg = Config.fromfile(TINY)
    cfg.model.backbone.update(gumbel=False, drop_path_rate=0.0)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).double().train().to(device)
    settings = Settings(batch, 20, torch.get_num_threads(), device, '')
    torch.manual_seed(1)
    images, tokens = make_batch(str(TINY), settings, 40)
    losses = model(images.double(), tokens=tokens, mode='loss')
    total, values = model.parse_losses(losses)
    total.backward()
    gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters()])
    return {name: value.item() for name, value in values.items()}, gradient


def same_as_on_the_cpu(stage: Stage) -> Piece:
    """Losses and gradients of the tiny model, without noise, in float64."""
    batch = stage.size(32, 8)
    expected, gradient = _losses_and_gradients('cpu', batch)
    found, other = _losses_and_gradients(stage.device, batch)
    worst = max(abs(found[name] - value) / abs(value) for name, value in expected.items())
    off = float((other - gradient).norm() / gradient.norm())
    return Piece(
        f'losses within {worst:.1e} (at most {LOSS_TOLERANCE}), gradient within {off:.1e} (at most '
        f'{GRADIENT_TOLERANCE}), {len(gradient)} parameters, float64',
        passed=found.keys() == expected.keys()
        and worst <= LOSS_TOLERANCE
        and off <= GRADIENT_TOLERANCE,
    )


def _train(option: Option, stage: Stage, steps: int) -> list[float]:
    batch = stage.size(64, 16)
    settings = Settings(BATCHES * batch, 20, torch.get_num_threads(), stage.device, '')
    model = Model(str(TINY), option, settings)
    torch.manual_seed(0)
    images, tokens = make_batch(str(TINY), settings, 40)
    scaler = torch.amp.GradScaler(stage.device, INITIAL_SCALE, enabled=option.precision == 'fp16')
    losses = []
    for index in range(steps):
        part = slice(index % BATCHES * batch, (index % BATCHES + 1) * batch)
        torch.manual_seed(index)  # the noise of a step is the same in all precisions
        losses.append(float(model.step(option, images[part], tokens[part], scaler)()))
    return losses


def half_precision(stage: Stage) -> Piece:
    """The loss after some steps in bf16 and fp16 beside that of float32."""
    steps, averaged = stage.size(STEPS, 4), stage.size(AVERAGED, 4)
    rows, worst = [], 0.0
    expected = None
    for name in ('float32', 'bf16', 'fp16'):
        losses = _train(Option(name, name), stage, steps)
        mean = sum(losses[-averaged:]) / averaged
        expected = mean if expected is None else expected
        off = mean / expected - 1
        worst = max(worst, abs(off)) if off == off else float('nan')
        rows.append(
            {
                'precision': name,
                'first loss': f'{losses[0]:.4f}',
                f'mean of the last {averaged} of {steps}': f'{mean:.4f}',
                'off by': f'{100 * off:.2f} %',
            }
        )
    return Piece(
        f'the loss is off by {100 * worst:.2f} % at most (allowed: {100 * HALF_TOLERANCE:.0f} %)',
        passed=worst <= HALF_TOLERANCE,
        rows=rows,
    )


def _states(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the prototypes' starts and of the statistics of batch norms."""
    kept = (NonLearnablePrototypes, SyncBatchNorm)
    return {
        f'{name}.{buffer}': value.clone()
        for name, part in module.named_modules()
        if isinstance(part, kept)
        for buffer, value in part.named_buffers(recurse=False)
    }


def _is_of_text(name: str, value: torch.Tensor) -> bool:
    return 'text_projector' in name and bool(value.isfinite().all())


def fp16_overflow(stage: Stage) -> Piece:
    """A step on images that overflow in fp16; their captions do not."""
    option = Option('fp16', 'fp16')
    settings = Settings(8, 20, torch.get_num_threads(), stage.device, '')
    model = Model(str(TINY), option, settings)
    images, tokens = make_batch(str(TINY), settings, 40)
    states = _states(model.module)
    weights = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    loss = float(model.step(option, 1e6 * images, tokens)())
    after = _states(model.module)
    moved = [
        name
        for name, value in states.items()
        if not (torch.equal(value, after[name]) or _is_of_text(name, after[name]))
    ]
    changed = [
        name for name, p in model.module.named_parameters() if not torch.equal(p, weights[name])
    ]
    sound = float(model.step(option, images, tokens)())
    again = _states(model.module)
    stuck = [name for name, value in states.items() if torch.equal(value, again[name])]
    overflowed = loss != loss or loss in (float('inf'), -float('inf'))
    return Piece(
        f"loss {loss}; it moves {moved + changed or 'nothing'} of the images' states and of "
        f'{len(weights)} weights; the next step, loss {sound:.3f}, moves '
        f'{len(states) - len(stuck)} states',
        passed=overflowed and not moved and not changed and not stuck and sound == sound,
    )


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
    kill = '9:after:0'
    for name, killed in (('whole', ''), ('killed', kill), ('killed', '')):
        done = killed_runs.train(config, folder / name, '--resume', *options, kill=killed)
        if killed_runs.was_killed(done) != bool(killed) or (done.returncode != 0) != bool(killed):
            raise RuntimeError(f'exit status {done.returncode}: …{done.stderr[-400:]}')
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


class WatchHook(Hook):
    """Notes where training steps wait for the GPU, from the second one on."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.places: Counter[tuple[str, str]] = Counter()
        self.steps = 0

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        self.steps += runner.iter > 0
        torch.cuda.set_sync_debug_mode('warn')

    def note(self, message: Warning | str, *args: Any, **kwargs: Any) -> None:
        """Stands in for :func:`warnings.showwarning`."""
        if 'called a synchronizing' in str(message):
            self.places[place_of(traceback.extract_stack()[:-1])] += 1


def place_of(stack: traceback.StackSummary) -> tuple[str, str]:
    """The named place of a wait, or the innermost line outside torch; and why it waits, or ''."""
    for frame in reversed(stack):
        for (end, function), why in WAITS.items():
            if frame.filename.endswith(end) and function in (None, frame.name):
                return f'{end}: {frame.name}', why
    outside = [f for f in stack if '/torch/' not in f.filename and f.filename != warnings.__file__]
    last = (outside or list(stack))[-1]
    return f'{"/".join(Path(last.filename).parts[-3:])}:{last.lineno} in {last.name}', ''


def waits(stage: Stage, folder: Path, wrapper: str, **precision: Any) -> Piece:
    """Where a training step of the Runner waits for the GPU."""
    if stage.device == 'cpu':
        return Piece('on the CPU nothing waits', passed=None)
    cfg = Config.fromfile(write_scenes_config(folder, wrapper, **precision))
    cfg.work_dir = str(folder / 'work')
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    cfg.custom_hooks = []
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1000, save_last=False)
    cfg.train_cfg = dict(type='ResumableIterLoop', max_iters=8)
    cfg.log_level = 'WARNING'
    watch = WatchHook()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(watch)
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        warnings.showwarning = watch.note
        try:
            runner.train()
        finally:
            torch.cuda.set_sync_debug_mode('default')
    rows = [
        {'place': place, 'times a step': f'{count / watch.steps:.1f}', 'why': why or 'NOT NAMED'}
        for (place, why), count in watch.places.most_common()
    ]
    unnamed = [place for place, why in watch.places if not why]
    return Piece(
        f'{sum(watch.places.values()) / watch.steps:.1f} waits a step at {len(rows)} places'
        + (f'; not named: {", ".join(unnamed)}' if unnamed else ', all of them named'),
        passed=bool(rows) and not unnamed,
        rows=rows,
    )


def main(stage: Stage) -> None:
    os.environ.update(stage.environment, CUBLAS_WORKSPACE_CONFIG=':4096:8')
    init_default_scope('mmseg')
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    files = PARITY[:1] if stage.small else PARITY
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ('killed', 'distributed', 'fp16', 'bf16'):
            (folder / name).mkdir()
        beside: dict[str, Callable[[], Piece]] = {
            'tests marked for GPUs': partial(gpu_tests, stage),
            **{f'parity: {name}': partial(parity, stage, name) for name in files},
            'killed and resumed': partial(killed_and_resumed, stage, folder / 'killed'),
            'distributed training': partial(distributed, stage, folder / 'distributed'),
        }
        stage.run_beside(beside)
        stage.run('losses and gradients as on the CPU', partial(same_as_on_the_cpu, stage))
        stage.run('half precision', partial(half_precision, stage))
        stage.run('fp16 overflow', partial(fp16_overflow, stage))
        for name, settings in (
            ('bf16', {'dtype': 'bfloat16', 'loss_scale': {'enabled': False}}),
            ('fp16', {'dtype': 'float16', 'loss_scale': 'dynamic'}),
        ):
            where = partial(waits, stage, folder / name, 'AmpOptimWrapper', **settings)
            stage.run(f'waits of a training step, {name}', where)


if __name__ == '__main__':
    main(Stage.from_command_line())
