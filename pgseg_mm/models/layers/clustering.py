"""Soft clustering of tokens (docs/method.md, 1.3 and 7.4)."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from .dist import all_reduce_sum, gather_with_grad
from .whole_numbers import check_whole

BALANCES = ('sinkhorn',)
"""Ways to share the tokens evenly among prototypes."""
SINKHORN_ROUNDS = 3
"""How often a balanced assignment evens out the prototypes' shares."""
MAX_CLUSTERS, MAX_ROUNDS = 65536, 1000
"""A config that a checkpoint carries may be a stranger's."""


class PrototypeOutput(NamedTuple):
    """Prototypes of each image and the tokens as seen through them."""

    prototypes: Tensor
    """(B, G, C), rows of unit length."""
    reconstruction: Tensor
    """(B, N, C), each token as a mixture of prototypes."""


def check_clustering(name: str, clusters: int, num_iters: int) -> None:
    """Refuse a clustering that nobody means, and that would not end.

    Args:
        name: What the number of clusters is called.
        clusters: Number of clusters.
        num_iters: Rounds of clustering.

    Raises:
        ValueError: If one of them is no whole number from 1 to 65 536 or 1000.
    """
    check_whole(name, clusters, most=MAX_CLUSTERS)
    check_whole('num_iters', num_iters, most=MAX_ROUNDS)


def soft_clusters(
    x: Tensor,
    mu: Tensor,
    num_iters: int = 10,
    eps: float = 1e-6,
    mask: Tensor | None = None,
    norm_dim: int = -1,
    temperature: float | None = None,
    balance: str | None = None,
    over_ranks: bool = False,
) -> PrototypeOutput:
    """Cluster the tokens of each image softly (docs/method.md, 1.3).

    Args:
        x: Tokens (B, N, C).
        mu: Where the clusters start, (B, G, C) or (1, G, C).
        num_iters: Rounds of clustering, at least one.
        eps: Added to denominators.
        mask: (B, N), False for tokens that take no part, or numbers from 0 to 1, by how much they
            do.
        norm_dim: Axis along which the prototypes have unit length.
        temperature: If given, tokens and prototypes are compared by their cosine over this
            temperature, and prototypes are means of directions. ``None`` compares by the dot
            product of a token and a prototype of unit length.
        balance: ``'sinkhorn'`` shares the tokens of an image evenly among its prototypes (see
            :func:`balanced_logits`); ``None`` does not.
        over_ranks: Whether the B = 1 set of tokens goes on in all ranks, and has one set of
            clusters.
    """
    if temperature is not None:
        x, mu = F.normalize(x, dim=-1), F.normalize(mu, dim=norm_dim)
    for _ in range(num_iters):
        logits = token_logits(x, mu, temperature)
        if balance is not None:
            logits = balanced_logits(logits, mask, over_ranks)
        z = logits.softmax(dim=-1)
        if mask is not None:
            z = z * mask[..., None]
        total = z.sum(dim=1, keepdim=True)
        z = z / (eps + (all_reduce_sum(total) if over_ranks else total))
        mu = z.transpose(1, 2) @ x
        if over_ranks:
            mu = all_reduce_sum(mu)
        mu = mu / (eps + mu.norm(dim=norm_dim, keepdim=True))
    return PrototypeOutput(mu, z @ mu)


def token_logits(x: Tensor, mu: Tensor, temperature: float | None = None) -> Tensor:
    """Logits (B, N, G) of (B, N, C) tokens for (B, G, C) prototypes.

    Args:
        x: Tokens; of unit length if a temperature is given.
        mu: Prototypes of unit length.
        temperature: Divides the logits.
    """
    logits = x @ mu.transpose(1, 2)
    return logits if temperature is None else logits / temperature


def balanced_logits(
    logits: Tensor,
    mask: Tensor | None = None,
    over_ranks: bool = False,
    rounds: int = SINKHORN_ROUNDS,
) -> Tensor:
    """Logits whose softmax over G gives all prototypes about equally many tokens (Sinkhorn-Knopp).

    Each round takes from each prototype the logarithm of the share that it had, so that after many
    rounds all have N / G of N tokens.

    Args:
        logits: (B, N, G).
        mask: (B, N), by how much a token counts, 0 to 1 or boolean.
        over_ranks: Whether the tokens of all ranks are shared together; B is 1 then.
        rounds: Number of rounds.

    Returns:
        (B, N, G): the logits less a number for each prototype.
    """
    weights = 0 if mask is None else mask.to(logits.dtype).clamp(min=1e-30).log()[..., None]
    offset = 0 * logits[:, :1]
    for _ in range(rounds):
        tokens = (logits - offset).logsumexp(dim=2, keepdim=True)
        offset = (logits - tokens + weights).logsumexp(dim=1, keepdim=True)
        if over_ranks:
            offset = gather_with_grad(offset).logsumexp(dim=0, keepdim=True)
    return logits - offset
