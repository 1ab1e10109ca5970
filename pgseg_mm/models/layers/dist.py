"""What the model needs to know about the other ranks."""

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size
from mmengine.logging import MessageHub
from torch import Tensor
from torch.distributed.nn.functional import all_gather

STEP_SEED = 'step_seed'
"""What the :class:`StepSeedHook` calls the seed of a step that all ranks share."""


def gather_with_grad(x: Tensor) -> Tensor:
    """Concatenate ``x`` of all ranks along the first axis, differentiably.

    The backward pass sums, over ranks, the gradients of each rank's slice: with every rank's loss
    averaged by DistributedDataParallel, gradients are those of the mean loss.

    Args:
        x: (B, ...), of the same shape on every rank.

    Returns:
        (world size * B, ...) in rank order; ``x`` itself in a single process.
    """
    if get_world_size() == 1:
        return x
    return torch.cat(all_gather(x))


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of ``x`` over all ranks, without gradient."""
    x = x.detach().clone()
    if get_world_size() > 1:
        dist.all_reduce(x)
    return x


def in_backward() -> bool:
    """Whether autograd's backward pass is running, so that this forward is a recomputation.

    Activation checkpointing calls a module a second time from within the backward pass; state that
    moves once a step must not move then.
    """
    return torch._C._current_graph_task_id() != -1


@torch.compiler.disable
def step_seed() -> int | None:
    """The seed of this training step that all ranks share; None without a :class:`StepSeedHook`."""
    return MessageHub.get_current_instance().get_info(STEP_SEED)
