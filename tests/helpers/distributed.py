"""Runs a function on two CPU processes, and collects what it returns."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

WORLD_SIZE = 2

# Autograd starts its threads at the first backward pass, and refuses to work in a forked process if
# torch.compile made that first pass on devices of its own.
torch.zeros(1, requires_grad=True).sum().backward()


def _run(rank: int, function: Callable, args: tuple, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group('gloo', rank=rank, world_size=WORLD_SIZE)
    torch.save(function(rank, *args), Path(folder) / f'{rank}.pt')
    dist.destroy_process_group()


def on_two_ranks(function: Callable, *args: Any, folder: Path) -> list[Any]:
    """Results of ``function(rank, *args)`` of both ranks."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    # forked, the ranks need neither to import everything again nor to find the test's module
    mp.start_processes(
        _run, (function, args, port, str(folder)), nprocs=WORLD_SIZE, start_method='fork'
    )
    return [torch.load(folder / f'{rank}.pt') for rank in range(WORLD_SIZE)]
