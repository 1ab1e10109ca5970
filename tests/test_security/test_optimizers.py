"""What a checkpoint says of the optimizer cannot reach beyond the memory of the parameters."""

import multiprocessing
from functools import partial

import pytest
import torch
from mmengine.runner import Runner

from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.runner_checkpoints import (
    load_checkpoints_safely,
    load_training_checkpoint,
)
from toy_runs import run_toy, toy_config


def changed_run(folder, edit):
    """A run that was interrupted, whose checkpoint was changed then."""
    run_toy(folder, interrupt=8)
    path = folder / 'iter_6.pth'
    content = torch.load(path, weights_only=False)
    edit(content['optimizer'])
    torch.save(content, path)
    return path


def resumed(folder, weights_hook=True, **optimizer):
    load_checkpoints_safely()
    cfg = toy_config(folder, resume=True)
    cfg.optim_wrapper.optimizer.update(optimizer)
    if weights_hook:
        cfg.default_hooks.weights = dict(type='WeightsHook')
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def survives(function, *args, **kwargs):
    """Run a function in another process, which may crash, and return its error."""
    receive, send = multiprocessing.Pipe(False)
    process = multiprocessing.get_context('fork').Process(
        target=_report, args=(send, partial(function, *args, **kwargs))
    )
    process.start()
    process.join(60)
    assert process.exitcode == 0, 'the process crashed'
    return receive.recv()


def _report(send, function):
    try:
        function()
    except Exception as error:
        send.send(error)
    else:
        send.send(None)


def hostile(optimizer):
    """Moments of one number, in an optimizer that takes them for those of a whole parameter."""
    for group in optimizer['param_groups']:
        group.update(fused=True, foreach=False)
    for state in optimizer['state'].values():
        state['exp_avg'], state['exp_avg_sq'] = torch.ones(1), torch.ones(1)


@pytest.mark.parametrize('settings', [{}, {'fused': True}, {'foreach': True}])
def test_moments_of_another_size_are_refused(tmp_path, settings):
    changed_run(tmp_path, hostile)
    error = survives(resumed, tmp_path, **settings)
    assert isinstance(error, CheckpointError)
    assert "the optimizer's 'exp_avg' of a parameter of shape (4, 3) is (1,)" in str(error)


def test_a_checkpoint_never_chooses_the_fused_optimizer(tmp_path):
    path = changed_run(tmp_path, hostile)
    groups = load_training_checkpoint(path)['optimizer']['param_groups']
    assert all('fused' not in group for group in groups)


@pytest.mark.parametrize('fused', [True, False])
def test_how_an_optimizer_computes_is_told_by_the_config(tmp_path, fused):
    changed_run(tmp_path, lambda optimizer: optimizer['param_groups'][0].update(fused=not fused))
    runner = resumed(tmp_path, fused=fused)
    assert runner.iter == 16
    assert [group['fused'] for group in runner.optim_wrapper.param_groups] == [fused]


def test_moments_that_repeat_a_number_have_memory_of_their_own(tmp_path):
    def repeat(optimizer):
        for state in optimizer['state'].values():
            state['exp_avg'] = torch.zeros(1).expand(state['exp_avg'].shape)

    changed_run(tmp_path, repeat)
    assert survives(resumed, tmp_path, fused=True) is None
    assert survives(resumed, tmp_path) is None


@pytest.mark.parametrize('value', [torch.ones(2), torch.ones(0)])
def test_several_numbers_of_steps_are_refused(tmp_path, value):
    def edit(optimizer):
        for state in optimizer['state'].values():
            state['step'] = value

    changed_run(tmp_path, edit)
    assert isinstance(survives(resumed, tmp_path, fused=True), CheckpointError)
