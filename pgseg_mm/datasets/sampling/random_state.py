"""Random numbers that depend on what is read, not on who reads it and when."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*numbers: int) -> int:
    """A seed of 32 bits that depends on all the numbers and on their order.

    Args:
        numbers: Such as the run's seed, the epoch and the sample; not negative.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and torch's random numbers, on all devices."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw random numbers from a seed within the context, and leave those outside as they were.

    Numbers of torch are those of the CPU: it serves data pipelines.

    Args:
        seed: Seed of Python's, NumPy's and torch's random numbers.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
