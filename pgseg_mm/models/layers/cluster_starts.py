"""Tokens at which a clustering starts, far from each other (docs/method.md, 7.4)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def farthest_tokens(x: Tensor, number: int, weights: Tensor | None = None) -> Tensor:
    """Choose tokens one by one, each the farthest from those before (farthest-point sampling).

    The distance is one less the cosine. The first is the token farthest from the mean direction.

    Args:
        x: Tokens (B, N, C).
        number: How many are chosen; the last ones are there twice if there are fewer tokens.
        weights: (B, N), factors of the distances, 0 to 1 or boolean; tokens of 0 are not chosen.

    Returns:
        (B, number, C), of unit length.
    """
    x = F.normalize(x, dim=-1)
    start = 1 - (x @ F.normalize(_mean(x, weights), dim=-1)[..., None]).squeeze(-1)

    def farthest(distances: Tensor, _: int) -> Tensor:
        if weights is not None:
            distances = torch.where(weights > 0, distances * weights, -1)
        return distances.argmax(dim=1)

    return _choose(x, number, start, farthest)


def kmeans_plus_plus(
    x: Tensor, number: int, numbers: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Draw tokens one by one, in proportion to the squared distance from those before.

    The distance is that of unit vectors, whose square is in proportion to one less the cosine. The
    first is any token.

    Args:
        x: Tokens (B, N, C).
        number: How many are drawn.
        numbers: (number,) random numbers in [0, 1), the same for all images, so that what is drawn
            for an image does not depend on the others of its batch.
        weights: (B, N), factors of the probabilities, 0 to 1 or boolean.

    Returns:
        (B, number, C), of unit length.
    """
    x = F.normalize(x, dim=-1)
    possible = x.new_ones(x.shape[:2]) if weights is None else weights.to(x.dtype)

    def draw(distances: Tensor, step: int) -> Tensor:
        mass = distances.clamp(min=0) * possible
        # all tokens are alike: any will do
        mass = torch.where(mass.sum(dim=1, keepdim=True) > 0, mass, possible)
        rising = mass.cumsum(dim=1)
        below = rising <= numbers[step] * rising[:, -1:]
        return below.sum(dim=1).clamp(max=x.shape[1] - 1)

    return _choose(x, number, x.new_ones(x.shape[:2]), draw)


def _mean(x: Tensor, weights: Tensor | None) -> Tensor:
    return x.mean(dim=1) if weights is None else (x * weights.to(x.dtype)[..., None]).sum(dim=1)


def _choose(
    x: Tensor, number: int, distances: Tensor, choose: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Choose (B, N, C) unit tokens by their (B, N) distances to the nearest one chosen before."""
    chosen: list[Tensor] = []
    for step in range(number):
        index = choose(distances, step)
        token = x.gather(1, index[:, None, None].expand(-1, 1, x.shape[2]))
        away = 1 - (x @ token.transpose(1, 2)).squeeze(-1)
        distances = torch.minimum(distances, away) if chosen else away
        chosen.append(token)
    return torch.cat(chosen, dim=1)
