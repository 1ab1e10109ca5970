from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .dist import all_reduce_sum, in_backward
from .precision import at_least_float32
from .projection import ProjectionMLP
from .sync_batch_norm import follow_statistics


class Moments(NamedTuple):
    """Mean and covariance of some rows, and how many they are."""

    number: Tensor
    """Scalar."""
    mean: Tensor
    """(C,)."""
    scatter: Tensor
    """(C, C), sum of the outer products of the rows' deviations from the mean."""

    @classmethod
    def of(cls, x: Tensor) -> 'Moments':
        """Moments of (M, C) rows, in float32 at least, under autocast, too."""
        with torch.autocast(x.device.type, enabled=False):
            x = at_least_float32(x)
            mean = x.mean(dim=0)
            deviations = x - mean
            return cls(mean.new_full((), len(x)), mean, deviations.T @ deviations)

    def pooled(self) -> 'Moments':
        """Moments of the rows of all ranks."""
        total = all_reduce_sum(torch.cat([self.number[None], self.number * self.mean]))
        mean = total[1:] / total[0]
        off = self.mean - mean
        return Moments(
            total[0], mean, all_reduce_sum(self.scatter + self.number * torch.outer(off, off))
        )

    def __add__(self, other: 'Moments') -> 'Moments':  # type: ignore[override]
        count = self.number + other.number
        off = other.mean - self.mean
        return Moments(
            count,
            self.mean + off * other.number / count,
            self.scatter
            + other.scatter
            + torch.outer(off, off) * self.number * other.number / count,
        )


class ReconstructionMLP(ProjectionMLP):
    """A :class:`ProjectionMLP` of rows that get no gradient, such as mixtures of prototypes.

    The statistics of the batch norm are those of linear functions of the rows, so they follow from
    the rows' mean m and covariance S: for weights w and bias b the mean is wm + b, the variance
    w S w. This is exact, gradients included. The norm becomes part of the first linear layer, no
    normalised copy of the hidden activations is made, and the statistics of a batch are known
    before its rows are projected, so that a batch can be projected in pieces.
    """

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int = 4096) -> None:
        super().__init__(in_channels, out_channels, hidden_channels)
        self._given: Moments | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_channels) to (..., out_channels); no gradient reaches the input."""
        x = x.detach()
        with torch.autocast(x.device.type, enabled=False):
            centre, weight, bias = self._normed_layer(x.flatten(0, -2))
        hidden = self.act(F.linear(x - centre.to(x.dtype), weight.to(x.dtype), bias.to(x.dtype)))
        return self.fc2(hidden)

    def expect(self, moments: Moments | None) -> None:
        """Normalise by the moments of this rank's whole batch, of which pieces follow.

        Args:
            moments: Moments that hold until the next call, in the backward pass, too; ``None`` for
                those of each batch that comes.
        """
        self._given = None if moments is None else moments.pooled()
        if self._given is not None:
            with torch.autocast(self._given.mean.device.type, enabled=False):
                self._update_running_statistics(self._given)

    def _normed_layer(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What to subtract from the rows, and weight and bias for the rest: fc1 and its norm."""
        norm, weight = self.norm, self.fc1.weight
        if not norm.training:
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            bias = norm.bias + scale * (self.fc1.bias - norm.running_mean)
            return rows.new_zeros(rows.shape[1]), scale[:, None] * weight, bias
        moments = self._given
        if moments is None:
            moments = Moments.of(rows).pooled()
            if not in_backward():
                self._update_running_statistics(moments)
        variance = _variance(weight, moments)
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        # the norm takes fc1's bias off again; it stays in the graph, as DDP wants it
        return moments.mean, scale[:, None] * weight, norm.bias + 0 * self.fc1.bias

    @torch.no_grad()
    def _update_running_statistics(self, moments: Moments) -> None:
        norm, weight = self.norm, self.fc1.weight
        if not norm.training:
            return
        mean = weight @ moments.mean.to(weight.dtype) + self.fc1.bias
        # a function of any norm: frameworks convert them, as mmengine's sync_bn does
        follow_statistics(norm, mean, _variance(weight, moments), moments.number)


def _variance(weight: Tensor, moments: Moments) -> Tensor:
    covariance = (moments.scatter / moments.number).to(weight.dtype)
    # rounding may leave a little less than nothing where rows hardly vary
    return ((weight @ covariance) * weight).sum(dim=1).clamp(min=0)
