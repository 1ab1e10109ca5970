"""Calls that are divided among processes, for data that benchmarks make."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Result = TypeVar('Result')
WORTH_IT = 64
"""Calls from which on processes are worth their start."""


def in_processes(function: Callable[[int], Result], number: int) -> list[Result]:
    """Results of a function for 0, 1, 2, ..., called in processes where that is worth it."""
    if number < WORTH_IT:
        return [function(index) for index in range(number)]
    with ProcessPoolExecutor(mp_context=get_context('fork')) as pool:
        return list(pool.map(function, range(number), chunksize=8))
