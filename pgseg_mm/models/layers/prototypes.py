import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from .cluster_starts import farthest_tokens, kmeans_plus_plus
from .clustering import BALANCES, PrototypeOutput, check_clustering, soft_clusters, token_logits
from .dist import all_reduce_sum, in_backward, step_seed
from .host_copies import copy_to_device
from .precision import at_least_float32

STARTS = ('mu', 'farthest', 'kmeans++')
"""Where clustering may begin."""


CLUSTER_STREAM = 0x5BD1E995
"""Sets the random numbers of clustering apart from others of the same step."""


@MODELS.register_module()
class NonLearnablePrototypes(nn.Module):
    """Prototypes of an image's tokens by soft clustering, no gradient (docs/method.md, 1.3).

    Every image's clustering starts at ``mu``, which follows the mean of the prototypes of the
    global batch by momentum, once a training step, and is saved with the model. The tokens may be
    words as well as patches.

    The last four arguments are no part of the published method (docs/method.md, 7.4).

    Args:
        num_prototypes: Number of prototypes G.
        embed_dims: Channels C.
        momentum: Share of ``mu`` that stays at an update; ``None`` keeps ``mu`` as it is, as the
            authors' release does.
        num_iters: Rounds of clustering.
        eps: Added to denominators.
        temperature: If given, tokens and prototypes are compared by their cosine over this
            temperature, which keeps prototypes apart; ``None`` compares by the dot product.
        start: Where clustering begins: ``'mu'``; ``'farthest'``, tokens of the image that are far
            from each other (:func:`farthest_tokens`); or ``'kmeans++'``, tokens drawn with the
            training step's random numbers (:func:`kmeans_plus_plus`), in evaluation always with the
            same. Tokens come in no order that lasts from image to image, so ``mu`` then stays as it
            was initialised and is not used.
        balance: ``'sinkhorn'`` shares the tokens of an image evenly among its prototypes.
        shared: Whether all images of the global batch have one set of prototypes, clusters of all
            their tokens. In evaluation, where there is no such batch, the prototypes are ``mu``.

    Raises:
        ValueError: If ``num_prototypes`` or ``num_iters`` is below one or above 65 536 and 1000,
            ``momentum`` outside [0, 1], ``temperature`` not positive, ``start`` or ``balance``
            unknown, or prototypes are ``shared`` that do not start at a ``mu`` which follows them.
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
        temperature: float | None = None,
        start: str = 'mu',
        balance: str | None = None,
        shared: bool = False,
    ) -> None:
        super().__init__()
        check_clustering('num_prototypes', num_prototypes, num_iters)
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f'momentum must be None or within [0, 1], got {momentum}')
        _check_options(temperature, start, balance)
        if shared and (start != 'mu' or momentum is None):
            raise ValueError(
                "shared prototypes need start='mu' and a momentum, because mu is what they are in "
                f'evaluation; got start={start!r} and momentum={momentum}'
            )
        self.temperature = temperature
        self.start = start
        self.balance = balance
        self.shared = shared
        self.momentum = momentum
        self.num_iters = num_iters
        self.eps = eps
        mu = torch.randn(1, num_prototypes, embed_dims) * math.sqrt(2 / embed_dims)
        self.register_buffer('mu', mu / mu.norm(dim=self.norm_dim, keepdim=True))
        self._start: Tensor = self.mu
        self._common: Tensor = self.mu
        self._collected: list[Tensor] | None = None

    @torch.no_grad()
    def forward(
        self, x: Tensor, mask: Tensor | None = None, shares: Tensor | None = None
    ) -> PrototypeOutput:
        """Cluster the tokens of each image.

        Args:
            x: Tokens (B, N, C).
            mask: (B, N), False for tokens that take no part, such as padding; all do by default.
            shares: (B, R, N), from 0 to 1, the share of a token in each of R regions. If given, the
                tokens of each region have G / R prototypes of their own, in the order of the
                regions, which start at their part of ``mu``.

        Returns:
            Prototypes (B, G, C) and reconstruction (B, N, C), in float32 at least.

        Raises:
            ValueError: If the prototypes are not a multiple of the regions, or are shared and there
                are regions.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = at_least_float32(x)
            recomputed = self.training and in_backward()
            if self.training and not recomputed:
                self._start = self.mu.clone()
            mu = self._start if recomputed else self.mu
            if shares is not None:
                out = self._cluster_regions(x, mu, mask, shares)
            elif self.shared:
                out = self._cluster_together(x, mu, mask, recomputed)
            else:
                out = self._cluster(x, mu, mask)
            if (self.training or self.moves_in_evaluation) and not recomputed:
                self._follow(out.prototypes)
        return out

    @torch.no_grad()
    def cluster(self, x: Tensor) -> PrototypeOutput:
        """Cluster (B, N, C) tokens as :meth:`forward` does, and leave ``mu`` alone."""
        with torch.autocast(x.device.type, enabled=False):
            return self._cluster(at_least_float32(x), self.mu, None)

    @torch.no_grad()
    def assign(self, x: Tensor, prototypes: Tensor) -> Tensor:
        """Soft assignment (B, G, N) of (B, N, C) tokens to (B, G, C) prototypes, not balanced."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(prototypes.dtype)
            if self.temperature is not None:
                x = F.normalize(x, dim=-1)
            return token_logits(x, prototypes, self.temperature).softmax(dim=2).transpose(1, 2)

    def _cluster(self, x: Tensor, mu: Tensor, mask: Tensor | None) -> PrototypeOutput:
        number = mu.shape[1]
        if self.start == 'farthest':
            mu = farthest_tokens(x, number, mask)
        elif self.start == 'kmeans++':
            mu = kmeans_plus_plus(x, number, self._random_numbers(number, x), mask)
        return self._rounds(x, mu, mask)

    def _rounds(
        self, x: Tensor, mu: Tensor, mask: Tensor | None, over_ranks: bool = False
    ) -> PrototypeOutput:
        return soft_clusters(
            x,
            mu.to(x.dtype),
            num_iters=self.num_iters,
            eps=self.eps,
            mask=mask,
            norm_dim=self.norm_dim,
            temperature=self.temperature,
            balance=self.balance,
            over_ranks=over_ranks,
        )

    def _cluster_regions(
        self, x: Tensor, mu: Tensor, mask: Tensor | None, shares: Tensor
    ) -> PrototypeOutput:
        """Cluster each region's tokens by themselves, as if they were an image."""
        regions, number = shares.shape[1], mu.shape[1]
        if self.shared or number % regions:
            raise ValueError(
                f'{number} prototypes cannot be those of {regions} regions'
                + (', for all images share them' if self.shared else ' in equal parts')
                + '; choose a multiple of the regions, shared=False, or regions=False'
            )
        weights = shares if mask is None else shares * mask[:, None]
        out = self._cluster(
            x[:, None].expand(-1, regions, -1, -1).flatten(0, 1),
            mu.unflatten(1, (regions, -1)).expand(len(x), -1, -1, -1).flatten(0, 1),
            weights.flatten(0, 1),
        )
        parts = out.reconstruction.unflatten(0, (-1, regions))
        return PrototypeOutput(
            out.prototypes.unflatten(0, (-1, regions)).flatten(1, 2),
            (parts * shares[..., None]).sum(dim=1),
        )

    def _cluster_together(
        self, x: Tensor, mu: Tensor, mask: Tensor | None, recomputed: bool
    ) -> PrototypeOutput:
        """Cluster the tokens of all ranks; a recomputation takes what was found before."""
        if not self.training:
            self._common = F.normalize(mu.to(x.dtype), dim=self.norm_dim)
        elif not recomputed:
            joined = None if mask is None else mask.flatten()[None]
            rounds = self._rounds(x.flatten(0, 1)[None], mu, joined, over_ranks=True)
            self._common = rounds.prototypes
        prototypes = self._common.expand(len(x), -1, -1)
        z = self.assign(x, prototypes).transpose(1, 2)
        if mask is not None:
            z = z * mask[..., None]
        z = z / (self.eps + z.sum(dim=1, keepdim=True))
        return PrototypeOutput(prototypes, z @ prototypes)

    def _random_numbers(self, number: int, x: Tensor) -> Tensor:
        """Numbers of the training step, which all its pieces, recomputations and ranks have."""
        seed = (step_seed() or 0) if self.training else 0
        # the same step's batch augments draw from the seed itself
        generator = torch.Generator().manual_seed(seed ^ CLUSTER_STREAM)
        numbers = torch.rand(number, generator=generator)
        return copy_to_device(numbers, x.device).to(x.dtype)

    def _follow(self, prototypes: Tensor) -> None:
        """Move ``mu`` towards the prototypes of a batch, now or with those of other batches."""
        if self.momentum is None or self.start != 'mu':
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


def _check_options(temperature: float | None, start: str, balance: str | None) -> None:
    if temperature is not None and not temperature > 0:
        raise ValueError(f'temperature must be None or positive, got {temperature}')
    if start not in STARTS:
        raise ValueError(f'start must be one of {STARTS}, got {start!r}')
    if balance is not None and balance not in BALANCES:
        raise ValueError(f'balance must be None or one of {BALANCES}, got {balance!r}')
