from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import get_rank, get_world_size
from torch import Tensor, nn

from .dist import gather_with_grad, in_backward
from .precision import at_least_float32


class SyncBatchNorm(nn.BatchNorm1d):
    """Batch norm whose training statistics span all ranks, on any device.

    ``torch.nn.SyncBatchNorm`` refuses CPU tensors. The ranks may hold different numbers of rows.
    Running statistics do not move when activation checkpointing recomputes a forward pass, nor for
    a batch with values that are not finite, such as one that overflows in half precision. State is
    that of :class:`torch.nn.BatchNorm1d`, with torch's default arguments.

    Args:
        num_features: Channels C.
    """

    num_batches_tracked: Tensor
    running_mean: Tensor
    running_var: Tensor
    momentum: float

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel.

        Args:
            x: (M, C) rows of all images and tokens of this rank.

        Returns:
            (M, C).
        """
        if not self.training:
            return super().forward(x)
        if get_world_size() == 1:
            return self._norm_alone(x)
        mean, var = self._global_statistics(x)
        # in float32, as F.batch_norm does it within
        normed = (at_least_float32(x) - mean) * torch.rsqrt(var + self.eps)
        return (normed * self.weight + self.bias).to(x.dtype)

    def _norm_alone(self, x: Tensor) -> Tensor:
        # copies: the backward pass, and checkpointing, want to see the statistics as they were
        mean, var = self.running_mean.clone(), self.running_var.clone()
        normed = F.batch_norm(x, mean, var, self.weight, self.bias, True, self.momentum, self.eps)
        if not in_backward():
            keep_finite(self, mean, var)
        return normed

    def _global_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        var, mean = torch.var_mean(x.float(), dim=0, correction=0)
        ranks = get_world_size()
        counts = mean.new_zeros(ranks)
        rank = get_rank()
        counts[rank : rank + 1] = x.shape[0]  # fills; at an index it would be copied from the host
        stats = gather_with_grad(torch.cat([mean, var, counts])[None])
        means, variances = stats[:, : x.shape[1]], stats[:, x.shape[1] : 2 * x.shape[1]]
        counts = stats[:, 2 * x.shape[1] :].sum(0).detach()
        share = (counts / counts.sum())[:, None]
        mean = (share * means).sum(0)
        var = (share * (variances + (means - mean) ** 2)).sum(0)
        if not in_backward():
            follow_statistics(self, mean, var, counts.sum())
        return mean, var


@torch.no_grad()
def follow_statistics(norm: Any, mean: Tensor, var: Tensor, count: Tensor) -> None:
    """Move the running statistics of a batch norm towards those of a batch, if these are finite.

    Args:
        norm: The norm, of this project or torch.
        mean: (C,) means of the batch.
        var: (C,) variances over its rows, not corrected for their number.
        count: Scalar, its rows.
    """
    unbiased = var * (count / (count - 1))
    keep_finite(
        norm,
        norm.running_mean.lerp(mean.to(norm.running_mean.dtype), norm.momentum),
        norm.running_var.lerp(unbiased.to(norm.running_var.dtype), norm.momentum),
    )


@torch.no_grad()
def keep_finite(norm: Any, mean: Tensor, var: Tensor) -> None:
    """Take over new running statistics if they are finite."""
    finite = mean.isfinite().all() & var.isfinite().all()
    norm.num_batches_tracked += finite
    norm.running_mean.copy_(torch.where(finite, mean, norm.running_mean))
    norm.running_var.copy_(torch.where(finite, var, norm.running_var))
