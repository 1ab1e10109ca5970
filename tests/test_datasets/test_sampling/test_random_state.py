"""Random numbers of a sample, and those of the rest of the program."""

import random

import numpy as np
import torch

from pgseg_mm.datasets.sampling.random_state import derive_seed, seeded


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_numbers_outside_go_on_as_if_nothing_had_been_drawn_within():
    with seeded(3):
        expected = draw(), draw()
    with seeded(3):
        first = draw()
        with seeded(4):
            within = draw()
        second = draw()
    assert (first, second) == expected
    assert all(one != other for one, other in zip(within, first, strict=True))


def test_numbers_outside_go_on_behind_an_error():
    with seeded(3):
        expected = draw(), draw()
    with seeded(3):
        first = draw()
        try:
            with seeded(4):
                draw()
                raise KeyError
        except KeyError:
            second = draw()
    assert (first, second) == expected


def test_seeds_depend_on_all_numbers_and_their_order():
    given = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2), (0, 1), (0, 1, 3)]
    assert len({derive_seed(*numbers) for numbers in given}) == len(given)
