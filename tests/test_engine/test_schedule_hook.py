"""A resumed run says whose schedule it goes on by, and can take the config's."""

import logging

import pytest
import torch
from mmengine.optim.scheduler import CosineAnnealingLR
from mmengine.runner import Runner

from pgseg_mm.engine import ScheduleHook
from pgseg_mm.engine.hooks import schedule_hook
from pgseg_mm.serialization.runner_checkpoints import load_checkpoints_safely
from toy_runs import BATCH_SIZE, InterruptedError, ToyDataset, toy_config
from toy_validation import ToyValidation, with_validation

NUMBER = len(ToyDataset())
COSINE = dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False)


def train(folder, name, iters, end, lr=0.1, resume=False, source=None, schedules=None, **optimizer):
    load_checkpoints_safely()
    cfg = toy_config(folder / 'run', dict(type='ResumableIterLoop', max_iters=iters))
    cfg.experiment_name = f'{folder.name}_{name}'
    cfg.optim_wrapper.optimizer.update(lr=lr, **optimizer)
    cfg.param_scheduler = schedules or [dict(COSINE, T_max=end, end=end)]
    cfg.default_hooks.schedule = dict(type='ScheduleHook', **({'source': source} if source else {}))
    cfg.default_hooks.checkpoint.interval = 6
    cfg.custom_hooks = []
    cfg.resume = resume
    cfg.work_dir = str(folder / ('run' if resume or name == 'first' else name))
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def rates(runner) -> list[float]:
    return runner.message_hub.get_scalar('train/lr').data[0].tolist()


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(logging.Logger, 'warning', lambda self, text, *_: found.append(str(text)))
    return found


def test_says_what_the_checkpoint_fixes(tmp_path, warnings):
    train(tmp_path, 'first', 6, 6)
    resumed = train(tmp_path, 'second', 12, 12, lr=0.2, resume=True, weight_decay=0.3)
    (said,) = (text for text in warnings if 'schedule of its checkpoint' in text)
    for part in (
        'lr 0.1 in the checkpoint, 0.2 in the config',
        'weight_decay 0.01 in the checkpoint, 0.3 in the config',
        'T_max of CosineAnnealingLR 6 in the checkpoint, 12 in the config',
        'end of CosineAnnealingLR 6 in the checkpoint, 12 in the config',
        '--new-schedule',
    ):
        assert part in said
    assert len(said) <= 600
    assert max(rates(resumed)[6:]) < 1e-2


def test_the_same_config_is_resumed_without_a_word(tmp_path, warnings):
    train(tmp_path, 'first', 6, 12)
    train(tmp_path, 'second', 12, 12, resume=True)
    assert not [text for text in warnings if 'schedule' in text]


@pytest.mark.parametrize(
    'schedules',
    [
        None,
        [
            dict(type='LinearLR', start_factor=0.1, end=4, by_epoch=False),
            dict(COSINE, T_max=8, begin=4, end=12),
        ],
    ],
    ids=['cosine', 'warmup and cosine'],
)
def test_takes_the_schedule_of_the_config(tmp_path, warnings, schedules):
    train(tmp_path, 'first', 6, 6)
    settings = dict(lr=0.2, schedules=schedules, weight_decay=0.3)
    resumed = train(tmp_path, 'second', 12, 12, resume=True, source='config', **settings)
    whole = train(tmp_path, 'whole', 12, 12, **settings)
    assert rates(resumed)[6:] == pytest.approx(rates(whole)[6:])
    assert resumed.optim_wrapper.param_groups[0]['weight_decay'] == 0.3
    state = resumed.optim_wrapper.optimizer.state
    assert {int(value['step']) for value in state.values()} == {12}  # moments go on
    assert [text for text in warnings if 'by the schedule of the config' in text]


@pytest.mark.parametrize('interrupt', [-1, 8])
def test_epochs_of_another_length_are_counted_anew(tmp_path, warnings, interrupt):
    load_checkpoints_safely()

    def run(name, epochs, batch_size, resume=False, interrupt=-1):
        cfg = toy_config(
            tmp_path / name,
            dict(type='ResumableEpochLoop', max_epochs=epochs),
            batch_size=batch_size,
            interrupt=interrupt,
            checkpoint=dict(interval=1),
        )
        steps = 4 * (NUMBER // batch_size)
        cfg.experiment_name = f'{tmp_path.name}_{name}_{resume}'
        cfg.param_scheduler = [dict(COSINE, T_max=steps, end=steps)]
        cfg.default_hooks.schedule = dict(type='ScheduleHook', source='config')
        cfg.resume = resume
        runner = Runner.from_cfg(cfg)
        try:
            runner.train()
        except InterruptedError:
            assert interrupt > 0
        return runner

    run('run', 2, BATCH_SIZE, interrupt=interrupt)
    resumed = run('run', 4, BATCH_SIZE // 2, resume=True)
    whole = run('whole', 4, BATCH_SIZE // 2)
    length = NUMBER // (BATCH_SIZE // 2)
    left = (
        2 * length if interrupt < 0 else 3 * length - 6
    )  # 3 steps of twice as many were behind it
    assert rates(resumed)[-left:] == pytest.approx(rates(whole)[-left:])
    assert resumed.iter == whole.iter == 4 * length
    counts = [vars(r.optim_wrapper) for r in (resumed, whole)]
    for name in ('_inner_count', '_max_counts', '_remainder_counts'):
        assert counts[0][name] == counts[1][name]
    assert [text for text in warnings if f'since epochs have {length} now' in text]


def run_epochs(folder, warnings=(), resume=False, interrupt=-1, **settings):
    """Three epochs by a checkpoint a step, and by the config's schedule if it is resumed."""
    load_checkpoints_safely()
    loop = dict(type='ResumableEpochLoop', max_epochs=3)
    cfg = toy_config(folder, loop, **{'checkpoint': dict(interval=1), **settings})
    cfg.custom_hooks[-1].at = interrupt
    cfg.default_hooks.schedule = dict(type='ScheduleHook', source='config')
    cfg.optim_wrapper.optimizer.lr = 0.2 if resume else 0.1  # so that the config is taken at all
    cfg.resume = resume
    runner = Runner.from_cfg(with_validation(cfg))
    try:
        runner.train()
    except InterruptedError:
        assert interrupt > 0
    return [text for text in warnings if 'steps are counted as' in text]


@pytest.mark.parametrize(
    ('settings', 'ranks', 'told'),
    [
        (dict(dataset=dict(size=10)), 1, '4 steps are counted as 2'),  # of two steps
        (dict(batch_size=1), 1, '4 steps are counted as 16'),
        (dict(batch_size=1), 2, '4 steps are counted as 8'),
    ],
)
def test_steps_of_an_epoch_are_counted_by_samples(
    tmp_path, warnings, monkeypatch, settings, ranks, told
):
    run_epochs(tmp_path, interrupt=4)
    monkeypatch.setattr(schedule_hook, 'get_world_size', lambda: ranks)
    (said,) = run_epochs(tmp_path, warnings, resume=True, **settings)
    assert said.startswith(told)


def test_a_validation_is_made_up_for_though_steps_are_counted_anew(tmp_path, warnings, monkeypatch):
    monkeypatch.setattr(ToyValidation, 'seen', [])
    checkpoint = dict(by_epoch=True, interval=1)
    monkeypatch.setattr(ToyValidation, 'kill_at', (5, 1))
    with pytest.raises(KeyboardInterrupt):
        run_epochs(tmp_path, checkpoint=checkpoint)
    monkeypatch.setattr(ToyValidation, 'kill_at', None)
    (said,) = run_epochs(tmp_path, warnings, resume=True, checkpoint=checkpoint, batch_size=2)
    assert said.startswith('5 steps are counted as 11')
    assert [step for step, index in ToyValidation.seen if index == 2] == [11, 22, 33]


def test_a_step_beyond_the_end_is_not_counted_to(tmp_path, monkeypatch):
    train(tmp_path, 'first', 6, 6)
    path = tmp_path / 'run' / 'iter_6.pth'
    content = torch.load(path, weights_only=False)
    content['meta']['iter'] = 10**4
    torch.save(content, path)
    steps, step = [], CosineAnnealingLR.step
    monkeypatch.setattr(CosineAnnealingLR, 'step', lambda self: steps.append(0) or step(self))
    train(tmp_path, 'second', 12, 12, resume=True, source='config', lr=0.2)
    assert len(steps) <= 12 + 2


@pytest.mark.parametrize('source', [None, 'config'])
def test_what_a_metric_has_been_is_no_setting(tmp_path, warnings, source, monkeypatch):
    load_checkpoints_safely()

    def run(iters, scores, resume=False):
        monkeypatch.setattr(ToyValidation, 'scores', list(scores))
        loop = dict(type='ResumableIterLoop', max_iters=iters, val_interval=3)
        cfg = with_validation(toy_config(tmp_path / 'run', loop, resume=resume))
        cfg.experiment_name = f'{tmp_path.name}_{resume}'
        follow = dict(type='ReduceOnPlateauLR', monitor='score', rule='greater', patience=1)
        cfg.param_scheduler = [dict(follow, factor=0.5, by_epoch=True)]
        cfg.default_hooks.param_scheduler = dict(type='ParamSchedulerHook')
        # a weight decay of its own, so that the config is taken at all
        cfg.optim_wrapper.optimizer.weight_decay = 0.3 if resume and source else 0.01
        cfg.default_hooks.schedule = dict(type='ScheduleHook', source=source or 'checkpoint')
        cfg.resume = resume
        runner = Runner.from_cfg(cfg)
        runner.train()
        return runner

    run(6, (5.0, 4.0))
    resumed = run(9, (4.5,), resume=True)
    (schedule,) = resumed.param_schedulers
    # the second bad one: halved
    assert schedule.best == 5.0 and resumed.optim_wrapper.get_lr()['lr'] == [0.05]
    told = [text for text in warnings if 'best of' in text or 'num_bad_epochs' in text]
    assert not told


def test_refuses_a_schedule_of_no_config(tmp_path, monkeypatch):
    train(tmp_path, 'first', 6, 6)
    build = Runner.from_cfg

    def without_config(cfg):
        runner = build(cfg)
        runner.cfg.pop('param_scheduler')  # as a Runner that was made of arguments
        return runner

    monkeypatch.setattr(Runner, 'from_cfg', without_config)
    with pytest.raises(ValueError, match='made without one; make it by Runner.from_cfg'):
        train(tmp_path, 'second', 12, 12, resume=True, source='config', lr=0.2)


def test_refuses_another_source():
    with pytest.raises(ValueError, match="'checkpoint' or 'config', got 'both'"):
        ScheduleHook('both')


def test_a_training_that_ends_within_its_warmup_is_told(tmp_path, warnings):
    long = [dict(type='WarmupCosineLR', warmup=8, end=24, by_epoch=False)]
    train(tmp_path, 'first', 6, 6, schedules=long)
    (told,) = (text for text in warnings if 'within the warm-up' in text)
    assert 'ends at 6, within the warm-up, which takes 8' in told
    train(tmp_path, 'with it', 8, 8, schedules=long)
    assert len([text for text in warnings if 'within the warm-up, which takes 8' in text]) == 2
    warnings.clear()
    train(tmp_path, 'other', 9, 9, schedules=long)
    assert not [text for text in warnings if 'within the warm-up' in text]
