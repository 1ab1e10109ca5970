import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..layers.host_copies import copy_to_device

MAX_THREADS = 8
"""Threads that solve assignments, at most."""


class PendingMatch:
    """A one-to-one match that other threads work out meanwhile; see :func:`start_matching`."""

    def __init__(self, chunks: Sequence[Future], device: torch.device) -> None:
        self._chunks = chunks
        self._device = device

    def result(self) -> Tensor:
        """Wait for the match: (B, G), the prototype of each group."""
        match = torch.from_numpy(np.concatenate([chunk.result() for chunk in self._chunks]))
        return copy_to_device(match, self._device)


@torch.no_grad()
def start_matching(similarity: Tensor, maximize: bool = True) -> PendingMatch:
    """Begin to match groups and prototypes one-to-one, so that their total similarity is largest.

    Other threads wait for the device and solve the assignments (Hungarian, by scipy, which lets
    other threads of Python run), so that this one can go on. Where similarities are not finite the
    match is some match.

    Args:
        similarity: (B, G, G), of groups (rows) to prototypes (columns) of the same image.
        maximize: Whether the total is to be largest, or smallest.

    Returns:
        The match in the making.
    """
    costs = similarity.detach().float().to('cpu', non_blocking=True)
    ready = None
    if similarity.is_cuda:
        ready = torch.cuda.Event(blocking=True)  # threads that wait for it leave the cores alone
        ready.record(torch.cuda.current_stream(similarity.device))
    pool, threads = _thread_pool(os.getpid(), MAX_THREADS)
    chunks = np.array_split(costs.numpy(), min(threads, len(costs)))
    futures = [pool.submit(_solve, chunk, ready, maximize) for chunk in chunks]
    return PendingMatch(futures, similarity.device)


def match_prototypes(similarity: Tensor, maximize: bool = True) -> Tensor:
    """Match groups and prototypes; :func:`start_matching` and its result in one.

    Args:
        similarity: (B, G, G), of groups (rows) to prototypes (columns) of the same image.
        maximize: Whether the total similarity is to be largest, or smallest.

    Returns:
        (B, G), the prototype of each group.
    """
    return start_matching(similarity, maximize).result()


def _solve(costs: np.ndarray, ready: torch.cuda.Event | None, maximize: bool) -> np.ndarray:
    if ready is not None:
        ready.synchronize()
    if not np.isfinite(costs).all():
        costs = np.nan_to_num(costs)
    return np.stack([linear_sum_assignment(cost, maximize=maximize)[1] for cost in costs])


def _usable_cores() -> int:
    if hasattr(os, 'sched_getaffinity'):  # a job may be given some of the machine's
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=2)
def _thread_pool(process: int, most: int) -> tuple[ThreadPoolExecutor, int]:
    """Threads of one process; a forked child does not inherit those of its parent."""
    threads = min(_usable_cores(), most)
    return ThreadPoolExecutor(threads, thread_name_prefix='matching'), threads
