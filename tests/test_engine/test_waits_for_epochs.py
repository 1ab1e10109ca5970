"""Nothing that a config sets by the epoch waits in vain in a loop by iterations."""

import pytest
from mmengine.runner import Runner

from pgseg_mm.errors import PreflightError
from toy_runs import toy_config


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(checkpoint=dict(by_epoch=True, interval=1)), 'SafeCheckpointHook saves by the epoch'),
        (dict(by_epoch=True), 'LinearLR of param_scheduler changes the rate by the epoch'),
    ],
)
def test_nothing_waits_for_an_epoch_that_is_not_counted(tmp_path, settings, message):
    by_epoch = settings.pop('by_epoch', False)

    def runner(name, loop):
        cfg = toy_config(tmp_path / name, loop, **settings)
        if by_epoch:
            cfg.param_scheduler = [dict(type='LinearLR', start_factor=0.1, end=3, by_epoch=True)]
        cfg.default_hooks.preflight = dict(type='PreflightHook')
        cfg.custom_hooks = []
        return Runner.from_cfg(cfg)

    runner('epochs', dict(type='ResumableEpochLoop', max_epochs=1)).train()
    with pytest.raises(PreflightError, match=f'{message}.*ResumableIterLoop counts iterations'):
        runner('iterations', dict(type='ResumableIterLoop', max_iters=4)).train()
    assert not list((tmp_path / 'iterations').glob('*.pth'))
