"""A run that is told to end loses nothing."""

import os
import signal
from pathlib import Path

import pytest
import torch
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from killed_runs import ROOT, assert_equal, last_checkpoint, make_pairs, train, write_config
from pgseg_mm.engine import StopSignalHook
from pgseg_mm.serialization.runner_checkpoints import load_checkpoints_safely
from prepared_processes import run_python
from stopped_runs import add_sender
from toy_runs import BATCH_SIZE, ToyDataset, read_by, run_toy, toy_config
from toy_validation import ToyValidation, with_validation

COMPARED = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'data_state')
SEED = ['--cfg-options', 'randomness.seed=3']


@pytest.fixture(scope='module')
def pairs(tmp_path_factory) -> Path:
    return make_pairs(tmp_path_factory.mktemp('pairs') / 'data')


def assert_resumed_alike(config, folder, processes=1):
    whole = train(config, folder / 'whole', *SEED, processes=processes)
    resumed = train(config, folder / 'stopped', '--resume', *SEED, processes=processes)
    assert whole.returncode == resumed.returncode == 0, resumed.stderr[-3000:]
    expected, found = (last_checkpoint(folder / name) for name in ('whole', 'stopped'))
    for key in COMPARED:
        assert_equal(expected[key], found[key], key)


@pytest.mark.parametrize(
    ('send', 'by_epoch'),
    [(f'7:workers:0:{signal.SIGTERM:d}', False), (f'14:after:0:{signal.SIGINT:d}', True)],
    ids=['SIGTERM to all processes', 'SIGINT'],
)
def test_it_writes_a_checkpoint_that_goes_on_exactly(pairs, tmp_path, send, by_epoch):
    config = add_sender(
        write_config(tmp_path / 'config.py', pairs, workers=2, by_epoch=by_epoch, shards=True)
    )
    stopped = train(config, tmp_path / 'stopped', *SEED, send=send)
    step, number = int(send.split(':')[0]), int(send.split(':')[-1])
    assert stopped.returncode == 128 + number, stopped.stderr[-3000:]
    assert f'behind step {step}; --resume goes on from' in stopped.stdout + stopped.stderr
    assert last_checkpoint(tmp_path / 'stopped')['meta']['iter'] == step
    assert_resumed_alike(config, tmp_path)


def test_all_ranks_end_behind_the_same_step(pairs, tmp_path):
    config = add_sender(write_config(tmp_path / 'config.py', pairs, workers=0, by_epoch=True))
    send = f'5:before:1:{signal.SIGTERM:d}'
    stopped = train(config, tmp_path / 'stopped', *SEED, processes=2, send=send)
    assert stopped.returncode != 0
    assert 'exitcode  : 143' in stopped.stderr, stopped.stderr[-3000:]
    assert last_checkpoint(tmp_path / 'stopped')['meta']['iter'] == 5
    assert_resumed_alike(config, tmp_path, processes=2)


@HOOKS.register_module(force=True)
class SendInValidationHook(Hook):
    """Sends the process SIGTERM within the first validation."""

    sent = False
    batch = 1

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == self.batch and not type(self).sent:
            type(self).sent = True
            os.kill(os.getpid(), signal.SIGTERM)


def validating(folder, resume=False):
    loop = dict(type='ResumableIterLoop', max_iters=8, val_interval=4)
    cfg = with_validation(toy_config(folder, loop, seed=1))
    cfg.default_hooks.stop_signal = dict(type='StopSignalHook')
    cfg.custom_hooks += [dict(type='SendInValidationHook')]
    cfg.resume = resume
    return Runner.from_cfg(cfg)


def test_a_validation_is_broken_off_and_made_up_for(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as stopped:
        validating(tmp_path).train()
    assert stopped.value.code == 128 + signal.SIGTERM
    assert ToyValidation.seen == [(4, 0), (4, 1)]
    assert last_checkpoint(tmp_path)['meta']['iter'] == 4
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    ToyValidation.seen.clear()
    load_checkpoints_safely()
    runner = validating(tmp_path, resume=True)
    runner.train()
    assert ToyValidation.seen == [(4, 0), (4, 1), (4, 2), (8, 0), (8, 1), (8, 2)]
    assert len(read_by(runner)) < 5 * BATCH_SIZE + BATCH_SIZE


@pytest.mark.parametrize('by_epoch', [False, True])
def test_a_killed_run_makes_up_for_the_validation_behind_its_checkpoint(
    tmp_path, monkeypatch, by_epoch
):
    """The second of two validations is killed; the last checkpoint is from right before it."""
    load_checkpoints_safely()
    steps = len(ToyDataset()) // BATCH_SIZE

    def run(name, killed_at=None, resume=False):
        loop = dict(type='ResumableIterLoop', max_iters=2 * steps, val_interval=steps)
        if by_epoch:
            loop = dict(type='ResumableEpochLoop', max_epochs=2)
        checkpoint = dict(by_epoch=by_epoch, interval=1 if by_epoch else steps)
        cfg = toy_config(tmp_path / name, loop, seed=1, checkpoint=checkpoint, resume=resume)
        cfg = with_validation(cfg)
        monkeypatch.setattr(ToyValidation, 'seen', [])
        runner = Runner.from_cfg(cfg)
        if killed_at is None:
            runner.train()
        else:
            monkeypatch.setattr(ToyValidation, 'kill_at', (killed_at, 1))
            with pytest.raises(KeyboardInterrupt):
                runner.train()
            monkeypatch.setattr(ToyValidation, 'kill_at', None)
        return [iteration for iteration, index in ToyValidation.seen if index == 2]

    assert run('whole') == [steps, 2 * steps]
    assert run('killed', killed_at=2 * steps) == [steps]
    assert run('killed', resume=True) == [2 * steps]
    last = last_checkpoint(tmp_path / 'killed')
    assert last['meta']['iter'] == 2 * steps


def test_a_stop_within_an_epoch_is_no_reason_to_validate(tmp_path, monkeypatch):
    load_checkpoints_safely()
    steps = len(ToyDataset()) // BATCH_SIZE
    monkeypatch.setattr(ToyValidation, 'seen', [])
    for at in (steps + 2, 2 * steps, None):
        cfg = toy_config(tmp_path, dict(type='ResumableEpochLoop', max_epochs=3), seed=1)
        cfg = with_validation(cfg)
        cfg.custom_hooks += [dict(type='StopSignalHook'), dict(type='TellingHook', at=at)]
        cfg.resume = at != steps + 2
        runner = Runner.from_cfg(cfg)
        if at is None:
            runner.train()
        else:
            with pytest.raises(SystemExit):
                runner.train()
    validated = [iteration for iteration, index in ToyValidation.seen if index == 2]
    assert validated == [steps, 2 * steps, 3 * steps]


def test_a_stop_in_a_validation_between_accumulated_gradients_waits(tmp_path, monkeypatch):
    """Averaged weights are in the model's place while it validates, and back behind it."""
    load_checkpoints_safely()
    monkeypatch.setattr(SendInValidationHook, 'sent', False)
    monkeypatch.setattr(SendInValidationHook, 'batch', 2)
    contents = []
    for name in ('whole', 'stopped'):
        loop = dict(type='ResumableIterLoop', max_iters=16, val_interval=6)
        accumulated = dict(optim_wrapper=dict(accumulative_counts=4), checkpoint=dict(interval=4))
        cfg = with_validation(toy_config(tmp_path / name, loop, seed=1, **accumulated))
        cfg.custom_hooks += [dict(type='StopSignalHook')]
        if name == 'stopped':
            cfg.custom_hooks += [dict(type='SendInValidationHook')]
            with pytest.raises(SystemExit):
                Runner.from_cfg(cfg).train()
        else:
            Runner.from_cfg(cfg).train()
        contents.append(torch.load(tmp_path / name / 'iter_8.pth', weights_only=False))
    assert last_checkpoint(tmp_path / 'stopped')['meta']['iter'] == 8
    for key in ('state_dict', 'ema_state_dict'):
        assert_equal(contents[0][key], contents[1][key], key)


def test_hooks_that_decide_by_a_figure_are_not_asked_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr(SendInValidationHook, 'sent', False)
    runner = validating(tmp_path)
    early = EarlyStoppingHook(monitor='score', rule='greater', strict=True)
    runner.register_hook(early, priority='NORMAL')
    ends = []
    early.after_run = lambda runner: ends.append(runner.iter)  # where the folder is unlocked
    with pytest.raises(SystemExit) as stopped:
        runner.train()
    assert stopped.value.code == 128 + signal.SIGTERM and ends == [4]
    assert last_checkpoint(tmp_path)['meta']['iter'] == 4


def test_what_an_earlier_stop_has_left_goes_with_the_next_checkpoint(tmp_path):
    load_checkpoints_safely()

    def run(at=None, resume=True):
        checkpoint = dict(by_epoch=True, interval=1, max_keep_ckpts=1)
        loop = dict(type='ResumableEpochLoop', max_epochs=3)
        cfg = toy_config(tmp_path, loop, resume=resume, checkpoint=checkpoint)
        cfg.custom_hooks += [dict(type='StopSignalHook'), dict(type='TellingHook', at=at)]
        runner = Runner.from_cfg(cfg)
        if at is None:
            runner.train()
        else:
            with pytest.raises(SystemExit):
                runner.train()
        return sorted(path.name for path in tmp_path.glob('*.pth'))

    assert run(7, resume=False) == ['epoch_1.pth', 'iter_7.pth']
    (tmp_path / 'iter_2.pth').write_bytes(b'mine')
    assert run(9) == ['epoch_1.pth', 'iter_2.pth', 'iter_9.pth']
    assert run() == ['epoch_3.pth', 'iter_2.pth']


def test_what_a_checkpoint_of_another_folder_calls_its_stop_is_left_alone(tmp_path):
    load_checkpoints_safely()

    def config(name, **settings):
        checkpoint = dict(by_epoch=True, interval=1, max_keep_ckpts=1)
        loop = dict(type='ResumableEpochLoop', max_epochs=3)
        return toy_config(tmp_path / name, loop, checkpoint=checkpoint, **settings)

    cfg = config('theirs')
    cfg.custom_hooks += [dict(type='StopSignalHook'), dict(type='TellingHook', at=7)]
    with pytest.raises(SystemExit):
        Runner.from_cfg(cfg).train()
    cfg = config('mine', resume=True)
    cfg.load_from = str(tmp_path / 'theirs' / 'iter_7.pth')
    runner = Runner.from_cfg(cfg)
    mine = tmp_path / 'mine' / 'iter_7.pth'

    class Putting(Hook):
        def before_train_epoch(self, runner):
            if runner.epoch == 1:  # goes on within the second
                mine.write_bytes(b'mine')

    runner.register_hook(Putting())
    runner.train()
    assert mine.read_bytes() == b'mine'
    assert last_checkpoint(tmp_path / 'mine')['meta']['epoch'] == 3


@pytest.mark.parametrize('named', ['/elsewhere/iter_8.pth', 8])
def test_what_a_checkpoint_calls_the_last_one_keeps_none_from_being_written(tmp_path, named):
    run_toy(tmp_path, interrupt=7)
    content = torch.load(tmp_path / 'iter_6.pth', weights_only=False)
    content['message_hub']['runtime_info']['last_ckpt'] = named
    content['message_hub']['resumed_keys']['last_ckpt'] = True
    torch.save(content, tmp_path / 'iter_6.pth')
    cfg = toy_config(tmp_path, resume=True, checkpoint=dict(interval=100))
    cfg.custom_hooks += [dict(type='StopSignalHook'), dict(type='TellingHook', at=8)]
    load_checkpoints_safely()
    with pytest.raises(SystemExit):
        Runner.from_cfg(cfg).train()
    assert last_checkpoint(tmp_path)['meta']['iter'] == 8


@HOOKS.register_module(force=True)
class TellingHook(Hook):
    """Tells its own process to end, within a step."""

    def __init__(self, at: int | None) -> None:
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_second_signal_ends_a_process_at_once():
    code = (
        'import os, signal, time\n'
        'from pgseg_mm.engine.hooks import stop_signal_hook as module\n'
        'module.REPEAT_SECONDS = 0.2\n'
        'listener = module._Listener(lambda number: print("noted", flush=True))\n'
        'signal.signal(signal.SIGTERM, listener)\n'
        'for pause in (0, 0.3):\n'
        '    os.kill(os.getpid(), signal.SIGTERM)\n'  # again at once: the same signal
        '    os.kill(os.getpid(), signal.SIGTERM)\n'
        '    time.sleep(0.3)\n'
        'print("alive")\n'
    )
    done = run_python(['-c', code], cwd=ROOT)
    assert done.returncode == -signal.SIGTERM
    assert done.stdout.count('noted') == 1 and 'alive' not in done.stdout


def test_signals_keep_their_meaning_without_the_checkpoints_for_it(tmp_path):
    cfg = toy_config(tmp_path, seed=1)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=3)
    hook = StopSignalHook()
    before = signal.getsignal(signal.SIGTERM)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(hook)
    runner.train()
    assert runner.iter == 16
    assert not hook._previous and signal.getsignal(signal.SIGTERM) == before
