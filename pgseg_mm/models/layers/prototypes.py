import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from .dist import all_reduce_sum, in_backward
from .precision import at_least_float32


class PrototypeOutput(NamedTuple):
    """Prototypes of each image and the tokens as seen through them."""

    prototypes: Tensor
    """(B, G, C), rows of unit length."""
    reconstruction: Tensor
    """(B, N, C), each token as a mixture of prototypes."""


def soft_clusters(
    x: Tensor,
    mu: Tensor,
    num_iters: int = 10,
    eps: float = 1e-6,
    mask: Tensor | None = None,
    norm_dim: int = -1,
) -> PrototypeOutput:
    """Cluster the tokens of each image softly (docs/method.md, 1.3).

    Args:
        x: Tokens (B, N, C).
        mu: Where the clusters start, (B, G, C) or (1, G, C).
        num_iters: Rounds of clustering, at least one.
        eps: Added to denominators.
        mask: (B, N), False for tokens that take no part.
        norm_dim: Axis along which the prototypes have unit length.
    """
    for _ in range(num_iters):
        z = (x @ mu.transpose(1, 2)).softmax(dim=-1)
        if mask is not None:
            z = z * mask[..., None]
        z = z / (eps + z.sum(dim=1, keepdim=True))
        mu = z.transpose(1, 2) @ x
        mu = mu / (eps + mu.norm(dim=norm_dim, keepdim=True))
    return PrototypeOutput(mu, z @ mu)


@MODELS.register_module()
class NonLearnablePrototypes(nn.Module):
    """Prototypes of an image's tokens by soft clustering, no gradient (docs/method.md, 1.3).

    Every image's clustering starts at ``mu``, which follows the mean of the prototypes of the
    global batch by momentum, once a training step, and is saved with the model. The tokens may be
    words as well as patches.

    Args:
        num_prototypes: Number of prototypes G.
        embed_dims: Channels C.
        momentum: Share of ``mu`` that stays at an update; ``None`` keeps ``mu`` as it is, as the
            authors' release does.
        num_iters: Rounds of clustering.
        eps: Added to denominators.

    Raises:
        ValueError: If ``num_prototypes`` or ``num_iters`` is below one or ``momentum`` outside
            [0, 1].
    """

    mu: Tensor
    norm_dim = -1
    """Axis along which ``mu`` and the prototypes have unit length."""
    moves_in_evaluation = False

    def __init__(
        self,
        num_prototypes: int,
        embed_dims: int,
        momentum: float | None = 0.9,
        num_iters: int = 10,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if num_prototypes < 1 or num_iters < 1:
            raise ValueError(
                'num_prototypes and num_iters must be at least 1, got '
                f'{num_prototypes} and {num_iters}'
            )
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f'momentum must be None or within [0, 1], got {momentum}')
        self.momentum = momentum
        self.num_iters = num_iters
        self.eps = eps
        mu = torch.randn(1, num_prototypes, embed_dims) * math.sqrt(2 / embed_dims)
        self.register_buffer('mu', mu / mu.norm(dim=self.norm_dim, keepdim=True))
        self._start: Tensor = self.mu
        self._collected: list[Tensor] | None = None

    @torch.no_grad()
    def forward(self, x: Tensor, mask: Tensor | None = None) -> PrototypeOutput:
        """Cluster the tokens of each image.

        Args:
            x: Tokens (B, N, C).
            mask: (B, N), False for tokens that take no part, such as padding; all do by default.

        Returns:
            Prototypes (B, G, C) and reconstruction (B, N, C), in float32 at least.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = at_least_float32(x)
            recomputed = self.training and in_backward()
            if self.training and not recomputed:
                self._start = self.mu.clone()
            out = self._cluster(x, self._start if recomputed else self.mu, mask)
            if (self.training or self.moves_in_evaluation) and not recomputed:
                self._follow(out.prototypes)
        return out

    @torch.no_grad()
    def cluster(self, x: Tensor) -> PrototypeOutput:
        """Cluster (B, N, C) tokens as :meth:`forward` does, and leave ``mu`` alone."""
        with torch.autocast(x.device.type, enabled=False):
            return self._cluster(at_least_float32(x), self.mu, None)

    def _cluster(self, x: Tensor, mu: Tensor, mask: Tensor | None) -> PrototypeOutput:
        return soft_clusters(
            x,
            mu.to(x.dtype),
            num_iters=self.num_iters,
            eps=self.eps,
            mask=mask,
            norm_dim=self.norm_dim,
        )

    def _follow(self, prototypes: Tensor) -> None:
        """Move ``mu`` towards the prototypes of a batch, now or with those of other batches."""
        if self.momentum is None:
            return
        total = prototypes.sum(0).flatten()
        # new_full writes on the device; a tensor made of a list would wait for it
        total = torch.cat([total, total.new_full((1,), len(prototypes))])
        if self._collected is None:
            self._move(total, self.momentum)
        else:
            self._collected.append(total)

    def _move(self, total: Tensor, momentum: float) -> None:
        """Move ``mu`` towards the global batch's mean; an overflowed batch leaves it alone.

        Args:
            total: Sum of the prototypes, flat, and their number.
            momentum: Share of ``mu`` that stays.
        """
        total = all_reduce_sum(total)
        mean = (total[:-1] / total[-1]).view_as(self.mu).to(self.mu.dtype)
        moved = momentum * self.mu + (1 - momentum) * mean
        self.mu.copy_(torch.where(mean.isfinite().all(), moved, self.mu))

    @contextmanager
    def moving_once(self) -> Iterator[None]:
        """Let all batches within the context start at one ``mu``, which then moves once."""
        self._collected = []
        try:
            yield
            if self._collected and self.momentum is not None:
                self._move(torch.stack(self._collected).sum(0), self.momentum)
        finally:
            self._collected = None
