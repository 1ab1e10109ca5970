"""Pairing images with the captions of others: the control of a training on pairs."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

SHUFFLE_STREAM = 4
"""Keeps the order apart from all else that is drawn from the same seed."""
Captions = TypeVar('Captions')


def shuffle(captions: Sequence[Captions], seed: int) -> list[Captions]:
    """Give every image the captions of another one: a permutation that is one single cycle."""
    order = np.random.default_rng([seed, SHUFFLE_STREAM]).permutation(len(captions))
    moved = list(captions)
    for source, target in zip(order, np.roll(order, -1), strict=True):
        moved[target] = captions[source]
    return moved
