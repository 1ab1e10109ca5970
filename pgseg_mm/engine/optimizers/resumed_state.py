"""What an optimizer takes over from a checkpoint must fit its parameters.

PyTorch looks at neither: a checkpoint chooses the implementation, and the fused ones read and write
as many numbers of a parameter's state as the parameter has, whatever the state's size is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from pgseg_mm.serialization.loading import CheckpointError

IMPLEMENTATION = ('capturable', 'differentiable', 'foreach', 'fused')
"""Settings that choose how an optimizer computes, not what."""
STEP = 'step'
PLAIN_OPTIMIZERS = (Adam, AdamW, SGD, Adagrad)
"""Optimizers whose state is of the shape of the parameter, but for the number of steps."""


def keep_implementation(wrapper: OptimWrapper | OptimWrapperDict, saved: Any) -> None:
    """Let an optimizer compute as its config says, whatever a checkpoint says.

    Args:
        wrapper: The optimizer, or several.
        saved: Its state in the checkpoint, changed in place.
    """
    for name, optimizer in _optimizers(wrapper):
        state = saved if name is None else saved.get(name) if isinstance(saved, dict) else None
        groups = state.get('param_groups') if isinstance(state, dict) else None
        if not isinstance(groups, list):
            continue  # PyTorch says what is missing
        for group, own in zip(groups, optimizer.param_groups, strict=False):
            if isinstance(group, dict):
                for key in IMPLEMENTATION:
                    group.pop(key, None)
                group.update({key: own[key] for key in IMPLEMENTATION if key in own})


def check_state(wrapper: OptimWrapper | OptimWrapperDict, where: str) -> None:
    """Refuse a state that does not fit the parameters, before the first step.

    Tensors that repeat their numbers, or lie otherwise in memory than the parameter, are laid out
    as the parameter is. Counts of steps go to the CPU where the implementation reads them there:
    those that were loaded to a GPU would have every step wait for it, once for each parameter.

    Args:
        wrapper: The optimizer, or several, with what it has loaded.
        where: The checkpoint, for messages.

    Raises:
        CheckpointError: A tensor of the state is of another shape than its parameter.
    """
    for _, optimizer in _optimizers(wrapper):
        for group in optimizer.param_groups:
            if type(optimizer) in PLAIN_OPTIMIZERS or group.get('fused'):
                uses_device = group.get('fused') or group.get('capturable')
                for parameter in group['params']:
                    state = optimizer.state.get(parameter, {})
                    _check(state, parameter, where)
                    step = state.get(STEP)
                    if isinstance(step, Tensor) and not uses_device:
                        state[STEP] = step.cpu()


def _optimizers(
    wrapper: OptimWrapper | OptimWrapperDict,
) -> Iterator[tuple[str | None, Optimizer]]:
    if isinstance(wrapper, OptimWrapperDict):
        for name, inner in wrapper.items():
            yield name, inner.optimizer
    else:
        yield None, wrapper.optimizer


def _check(state: dict[str, Any], parameter: Tensor, where: str) -> None:
    for name, value in state.items():
        if value is None or (name == STEP and _is_number(value)):
            continue
        if not isinstance(value, Tensor) or value.shape != parameter.shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(
                f"{where} is a damaged training checkpoint: the optimizer's {str(name)[:80]!r} of "
                f'a parameter of shape {tuple(parameter.shape)} is {found}'
            )
        if value.stride() != parameter.stride():
            laid_out = torch.empty_like(parameter, dtype=value.dtype, device=value.device)
            state[name] = laid_out.copy_(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)
