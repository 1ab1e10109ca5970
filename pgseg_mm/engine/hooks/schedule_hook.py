from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmseg.registry import HOOKS

from pgseg_mm.messages import first_of
from pgseg_mm.serialization.loading import CheckpointError

from ..loops import VALIDATION_DUE
from ..optimizers.resumed_state import IMPLEMENTATION

HISTORY = ('best', 'num_bad_epochs', 'cooldown_counter')
"""Entries of the state of a schedule that follows a metric, of what that has been."""
PROGRESS = ('last_step', '_global_step', '_last_value', 'verbose', 'optimizer', *HISTORY)
"""Entries of a schedule's state that move from step to step, or compute nothing."""
STATEFUL = {'betas', 'momentum', 'rho', 'alpha', 'lr_decay', 'lambd'}
"""Settings by which optimizers differ whose state is not each other's."""

Group = dict[str, Any]


@HOOKS.register_module()
class ScheduleHook(Hook):
    """Says what a resumed run takes from its checkpoint where its config asks for something else.

    mmengine restores schedules and the optimizer's settings from the checkpoint, so that another
    learning rate, weight decay or end of the schedule in the config has no effect. The log says so.
    With ``source='config'`` the run goes on by the config: rates are those that a run by this
    config would have at the step where it is resumed; the optimizer's moments are kept.

    Args:
        source: ``'checkpoint'`` or ``'config'``.

    Raises:
        ValueError: If the source is another one, or the schedules of several optimizers are to be
            taken from the config.
    """

    # before hooks that read the rate
    priority = 'VERY_HIGH'

    def __init__(self, source: Literal['checkpoint', 'config'] = 'checkpoint') -> None:
        if source not in ('checkpoint', 'config'):
            raise ValueError(f"source must be 'checkpoint' or 'config', got {source!r}")
        self.source = source
        self._groups: list[Group] = []
        self._schedules: list[dict[str, Any]] = []
        self._saved: dict[str, Any] = {}
        self._consumed = 0

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember what the config asks for, before the checkpoint's settings replace it."""
        if not isinstance(runner.optim_wrapper, OptimWrapper) or isinstance(
            runner.optim_wrapper, OptimWrapperDict
        ):
            return  # a test, or several optimizers
        if not runner._resume:
            return  # only weights are taken
        _check_groups(runner, checkpoint.get('optimizer'))
        self._consumed = _samples_of_epoch(checkpoint)
        self._groups = [_settings(group) for group in runner.optim_wrapper.param_groups]
        self._schedules = [_state(schedule) for schedule in runner.param_schedulers or []]
        self._saved = {
            key: checkpoint[key] for key in ('optimizer', 'param_schedulers') if key in checkpoint
        }

    def before_train(self, runner: Runner) -> None:
        """Compare config and checkpoint, and take the config's settings if that is asked for."""
        _tell_of_endless_warmups(runner)
        if runner.iter == 0:
            return
        if isinstance(runner.optim_wrapper, OptimWrapperDict):
            if self.source == 'config':
                raise ValueError(
                    'schedules of several optimizers are resumed as the checkpoint has them; leave '
                    "source='config' out"
                )
            return
        differences = self._differences(runner)
        self._saved = {}
        if not differences:
            return
        told = first_of(differences, separator='; ')
        if self.source == 'config':
            self._take_over(runner)
            runner.logger.warning(f'The run goes on by the schedule of the config: {told}.')
            return
        runner.logger.warning(
            'The run goes on by the schedule of its checkpoint, not by that of the config: '
            f'{told}. To go on by the config, add --new-schedule '
            "(default_hooks=dict(schedule=dict(type='ScheduleHook', source='config')))."
        )

    def _differences(self, runner: Runner) -> list[str]:
        """Settings in which checkpoint and config differ, in words."""
        found: dict[str, None] = {}
        saved = (self._saved.get('optimizer') or {}).get('param_groups', [])
        for old, new in zip(saved, self._groups, strict=False):
            old = _settings(old)
            for name, value in new.items():
                if name in old and not _same(old[name], value):
                    found[f'{name} {old[name]!r} in the checkpoint, {value!r} in the config'] = None
        schedules = self._saved.get('param_schedulers') or []
        before, now = len(schedules), len(self._schedules)
        if not before and now:
            found['no schedule in the checkpoint, so that those of the config begin anew'] = None
        elif before != now:
            found[f'{before} schedules in the checkpoint, {now} in the config'] = None
        kinds = [type(schedule).__name__ for schedule in runner.param_schedulers or []]
        for kind, old, new in zip(kinds, schedules, self._schedules, strict=False):
            for name in sorted({*old, *new} - {*PROGRESS, 'base_values'}):
                if not _same(old.get(name), new.get(name)):
                    found[
                        f'{name} of {kind} {old.get(name)!r} in the checkpoint, {new.get(name)!r} '
                        'in the config'
                    ] = None
        return list(found)

    def _take_over(self, runner: Runner) -> None:
        """Give the optimizer the config's settings, and the rates that they lead to by now."""
        for group, settings in zip(runner.optim_wrapper.param_groups, self._groups, strict=True):
            for name in [name for name in group if name.startswith('initial_')]:
                group[name.removeprefix('initial_')] = group.pop(name)
            group.update(settings)
        if runner.cfg.get('param_scheduler') is None:
            if runner.param_schedulers:
                raise ValueError(
                    "source='config' builds the schedules of the config anew, but this Runner was "
                    'made without one; make it by Runner.from_cfg'
                )
            return
        before = runner.param_schedulers or []
        runner.param_schedulers = runner.build_param_scheduler(runner.cfg.param_scheduler)
        for old, new in zip(before, runner.param_schedulers, strict=False):
            if type(old) is type(new) and getattr(old, 'monitor', 0) == getattr(new, 'monitor', 1):
                vars(new).update({name: vars(old)[name] for name in HISTORY})
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        length = len(runner.train_dataloader) if by_epoch else 0
        done = self._count_anew(runner, length) if by_epoch else runner.iter
        # schedules warn if they are stepped before the optimizer
        runner.optim_wrapper._global_step = 1
        # a step beyond the end, which only a damaged checkpoint has, would be counted to
        for step in range(1, min(done, runner.train_loop.max_iters) + 1):
            for schedule in runner.param_schedulers:
                if not schedule.by_epoch or (length and step % length == 0):
                    schedule.step()

    def _count_anew(self, runner: Runner, length: int) -> int:
        """Steps that epochs of this length have behind them: with another batch, number of devices
        or data, they were of another length before.
        """
        of_step = (runner.train_dataloader.batch_size or 1) * get_world_size()
        done = runner.epoch * length + min(self._consumed // of_step, length)
        if done != runner.iter:
            runner.logger.warning(
                f'{runner.iter} steps are counted as {done}, since epochs have {length} now.'
            )
            info = runner.message_hub.runtime_info
            if info.get(VALIDATION_DUE) == runner.iter:
                info[VALIDATION_DUE] = done
            runner.train_loop._iter = done
            runner.optim_wrapper.initialize_count_status(
                runner.model, done, runner.train_loop.max_iters
            )
        return done


def _tell_of_endless_warmups(runner: Runner) -> None:
    """Warn of a training that is over before its warm-up, as one that was cut short by its end."""
    schedules = runner.param_schedulers
    for schedule in schedules if isinstance(schedules, list) else []:
        steps = runner.max_epochs if schedule.by_epoch else runner.max_iters
        if (end := schedule.begin + getattr(schedule, 'warmup', 0)) >= steps > 1:
            runner.logger.warning(
                f'The training ends at {steps}, within the warm-up, which takes {end}: its rate '
                'never falls. A shorter training needs warmup and end of param_scheduler '
                'shortened, too.'
            )


def _samples_of_epoch(checkpoint: dict) -> int:
    """Samples of the running epoch that a checkpoint has behind it, as it says itself."""
    state = checkpoint.get('data_state')
    consumed = state.get('consumed', 0) if isinstance(state, Mapping) else 0
    return consumed if isinstance(consumed, int) else 0


def _check_groups(runner: Runner, saved: Any) -> None:
    """Refuse the state of an optimizer with other groups of parameters; say if there is none."""
    if not isinstance(saved, Mapping):
        runner.logger.warning(
            'The checkpoint has no state of an optimizer: the run goes on with a new one, without '
            'moments.'
        )
        return
    groups = saved.get('param_groups') or []
    before = [len(group.get('params', ())) for group in groups]
    now = [len(group['params']) for group in runner.optim_wrapper.optimizer.param_groups]
    if before != now:
        raise CheckpointError(
            f'the optimizer of the checkpoint has {len(before)} groups of {sum(before)} '
            f'parameters, that of the config {len(now)} groups of {sum(now)}: optim_wrapper '
            '(paramwise_cfg, constructor) or the frozen parts were changed. Go on with the '
            'settings of the checkpoint, or set load_from without resume to begin anew with its '
            'weights'
        )
    one, other = groups[0], runner.optim_wrapper.optimizer.param_groups[0]
    lost = sorted(STATEFUL & ({*one} ^ {*other}))
    if lost:
        kind = type(runner.optim_wrapper.optimizer).__name__
        raise CheckpointError(
            f'the optimizer of the checkpoint is not the {kind} of the config (only one of them '
            f'has {", ".join(lost)}); go on with the optimizer of the checkpoint, or set '
            'load_from without resume to begin anew with its weights'
        )


def _settings(group: Group) -> Group:
    """Settings of a group of parameters as the config has them: before any schedule moved them."""
    scheduled = {
        name.removeprefix('initial_'): value
        for name, value in group.items()
        if name.startswith('initial_')
    }
    plain = {
        name: value
        for name, value in group.items()
        if isinstance(value, (int, float, str, tuple, list, bool))
        and name not in ('params', *IMPLEMENTATION)
        and not name.startswith('initial_')
    }
    return {**plain, **scheduled}


def _state(schedule: Any) -> dict[str, Any]:
    return {key: value for key, value in schedule.state_dict().items() if key not in PROGRESS}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-9)
    if isinstance(one, Mapping) or isinstance(other, Mapping):
        return one == other
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        pairs = list(zip(one, other, strict=False))
        return len(one) == len(other) and all(_same(a, b) for a, b in pairs)
    return one == other
