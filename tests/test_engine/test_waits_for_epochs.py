"""Nothing that a config sets by the epoch waits in vain in a loop by iterations."""

import logging

import pytest
from mmengine.runner import Runner

from pgseg_mm.errors import PreflightError
from toy_runs import toy_config

ITERATIONS = dict(type='ResumableIterLoop', max_iters=4)
EPOCHS = dict(type='ResumableEpochLoop', max_epochs=1)


@pytest.fixture
def told(monkeypatch):
    found = []
    monkeypatch.setattr(logging.Logger, 'warning', lambda self, text, *_: found.append(str(text)))
    return found


def runner(folder, loop, by_epoch=False, **settings):
    cfg = toy_config(folder, loop, **settings)
    if by_epoch:
        cfg.param_scheduler = [dict(type='LinearLR', start_factor=0.1, end=3, by_epoch=True)]
    cfg.default_hooks.preflight = dict(type='PreflightHook')
    cfg.custom_hooks = []
    return Runner.from_cfg(cfg)


def test_a_schedule_is_refused(tmp_path):
    runner(tmp_path / 'epochs', EPOCHS, by_epoch=True).train()
    message = 'LinearLR of param_scheduler .* by the epoch.*ResumableIterLoop counts iterations'
    with pytest.raises(PreflightError, match=message):
        runner(tmp_path / 'iterations', ITERATIONS, by_epoch=True).train()
    assert not list((tmp_path / 'iterations').glob('*.pth'))


def test_of_checkpoints_is_warned(tmp_path, told):
    checkpoint = dict(by_epoch=True, interval=1)
    runner(tmp_path / 'epochs', EPOCHS, checkpoint=checkpoint).train()
    assert not [text for text in told if 'saves by the epoch' in text]
    runner(tmp_path / 'iterations', ITERATIONS, checkpoint=checkpoint).train()
    (said,) = [text for text in told if 'saves by the epoch' in text]
    assert (
        'ResumableIterLoop counts iterations alone: there is no checkpoint before the end' in said
    )
