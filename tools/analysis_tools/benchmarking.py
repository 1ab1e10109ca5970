"""What the benchmarks share: times taken turn about, ratios, peak memory, versions, output."""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

MIB = 2**20
STATUS = Path('/proc/self/status')
LIBRARIES = ('mmengine', 'onedl-mmengine', 'mmsegmentation', 'onedl-mmsegmentation')

Name = TypeVar('Name', bound=Hashable)
Result = TypeVar('Result')


class Stopwatch(Generic[Name]):
    """Times of calls by name, taken turn about so that a noisy machine hurts all alike."""

    def __init__(self, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self.seconds: dict[Name, list[float]] = {}

    def run(self, calls: dict[Name, Callable[[], object]], rounds: int) -> None:
        """Call each once to warm up, then once a round; rounds start with one after the other."""
        for call in calls.values():
            call()
        order = list(calls)
        for i in range(rounds):
            start = i % len(order)
            for name in order[start:] + order[:start]:
                self.seconds.setdefault(name, []).append(self._time(calls[name]))
            print(f'round {i + 1} of {rounds}', file=sys.stderr)

    def median(self, name: Name) -> float:
        return statistics.median(self.seconds[name])

    def spread(self, name: Name) -> str:
        times = self.seconds[name]
        return f'{min(times):.4g} to {max(times):.4g}'

    def _time(self, call: Callable[[], object]) -> float:
        self._synchronize()
        start = time.perf_counter()
        call()
        self._synchronize()
        return time.perf_counter() - start

    def _synchronize(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize()


def ratio(times: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the ratios of times of the same round."""
    ratios = [mine / other for mine, other in zip(times, others, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method='inclusive')
    return {'median': median, 'low': low, 'high': high}


def show_ratio(value: dict[str, float] | None) -> str:
    """A ratio as a cell of a table."""
    if value is None:
        return ''
    return f'{value["median"]:.3f} ({value["low"]:.3f} to {value["high"]:.3f})'


def can_measure_memory(device: torch.device) -> bool:
    """Whether peak memory can be read; says so if not."""
    if device.type == 'cpu' and not STATUS.exists():
        print('peak memory on the CPU can be read on Linux only and is left out', file=sys.stderr)
        return False
    return True


def in_fresh_process(function: Callable[..., Result], *args: Any) -> Result:
    """Result of a function of a module, called in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as process:
        return process.submit(function, *args).result()


def reset_peak(device: torch.device) -> int:
    """Start to watch the peak; returns the bytes in use."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path('/proc/self/clear_refs').write_text('5', encoding='ascii')
    return _status('VmRSS')


def peak(device: torch.device) -> int:
    """Largest number of bytes since :func:`reset_peak`; on the CPU those of the whole process."""
    return torch.cuda.max_memory_allocated(device) if device.type == 'cuda' else _status('VmHWM')


def _status(key: str) -> int:
    lines = STATUS.read_text(encoding='ascii').splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f'{key}:'))


def versions(*more: str) -> dict[str, str]:
    """Of the libraries that take part; those that are not installed are left out."""
    found = {}
    for name in (*LIBRARIES, *more):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def describe(result: dict[str, Any]) -> list[str]:
    """Lines on machine, versions and command, for the end of a document."""
    machine = result['machine']
    accelerator = f', {machine["accelerator"]}' if machine['accelerator'] else ''
    libraries = ''.join(f', {name} {number}' for name, number in result['versions'].items())
    return [
        f'- Machine: {machine["processor"]}, {machine["cores"]} cores{accelerator}',
        f'- Versions: Python {machine["python"]}, torch {machine["torch"]}{libraries}',
        f'- Command: `{result["command"]}`',
    ]


def check_rounds(parser: argparse.ArgumentParser, name: str, rounds: int) -> None:
    """Leave with the parser's usage message if there are too few rounds for quartiles."""
    if rounds < 2:
        parser.error(f'{name} must be at least 2, for the spread, got {rounds}')
