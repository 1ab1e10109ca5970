"""What a parity file may hold beside plain numbers."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class ClassMap(NamedTuple):
    """Class of each pixel, and where another one would be as good."""

    labels: Tensor
    """(1, H, W)."""
    gaps: Callable[[Tensor], Tensor]
    """How much worse the classes of another map score, zero where groups tie; (1, H, W)."""


class Given(NamedTuple):
    """What other values of the file hang on and no seed tells."""

    known: Tensor
    """Values that it may have."""


def map_of(scores: Tensor, labels: Tensor | None = None) -> ClassMap:
    """A class map whose ties are those of its scores.

    Args:
        scores: (..., K, H, W).
        labels: (..., H, W), if they are not the largest scores'.
    """
    best = scores.argmax(dim=-3) if labels is None else labels

    def gaps(other: Tensor) -> Tensor:
        legal = other.clamp(0, scores.shape[-3] - 1)
        own, others = (scores.gather(-3, x.unsqueeze(-3)).squeeze(-3) for x in (best, legal))
        return (own - others).masked_fill(other != legal, float('inf'))

    return ClassMap(best, gaps)


def map_without_ties(labels: Tensor) -> ClassMap:
    """A class map that another one must equal everywhere."""
    return ClassMap(labels, lambda other: (other != labels).double() * float('inf'))
