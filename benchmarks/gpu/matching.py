"""What NPR costs in a training step, and whether matching in threads is worth its code."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pgseg_mm.models.losses import match_prototypes, matching, npr_loss

from ..timing import Stopwatch, ratio
from ..training_contestants import Model, Option, Settings, make_batch
from .stage import PGSEG, TINY, Piece, Stage

OPTION = Option('bf16', 'bf16', fused=True)
THREADS, PLAIN_CALL, ON_GPU = 'scipy in threads', 'scipy, one plain call', 'torch-linear-assignment'
EVERY_CORE, GIVEN = 'scipy in a thread for each core', 'no matching: any match is given'


class Solved:
    """A match that was worked out at once; as :class:`PendingMatch`."""

    def __init__(self, match: Tensor) -> None:
        self.match = match

    def result(self) -> Tensor:
        return self.match


def solve_plainly(similarity: Tensor, maximize: bool = True) -> Solved:
    """One assignment after the other, while the host waits."""
    costs = similarity.detach().float().cpu().numpy()
    found = np.stack([linear_sum_assignment(cost, maximize=maximize)[1] for cost in costs])
    return Solved(torch.from_numpy(found).to(similarity.device))


def solve_on_gpu(similarity: Tensor, maximize: bool = True) -> Solved:
    """All assignments on the GPU, by a library that few have."""
    from torch_linear_assignment import batch_linear_assignment

    costs = similarity.detach().float()
    return Solved(batch_linear_assignment(-costs if maximize else costs))


def match_given(similarity: Tensor, maximize: bool = True) -> Solved:
    """Each group has the prototype of its number: what is left is what else NPR costs."""
    numbers = torch.arange(similarity.shape[1], device=similarity.device)
    return Solved(numbers.expand(len(similarity), -1))


def start_on_every_core(similarity: Tensor, maximize: bool = True) -> Any:
    """As the NPR loss does it, in as many threads as there are cores."""
    most = matching.MAX_THREADS
    matching.MAX_THREADS = os.cpu_count() or 1
    try:
        return matching.start_matching(similarity, maximize)
    finally:
        matching.MAX_THREADS = most


@contextlib.contextmanager
def matched_by(solver: Callable[..., Any], waited: list[float]) -> Iterator[None]:
    """Let the NPR loss match by a solver, and note how long the host waits for each match."""
    original = npr_loss.start_matching

    def start(similarity: Tensor, maximize: bool = True) -> Any:
        begin = time.perf_counter()
        match = solver(similarity, maximize)
        waited.append(time.perf_counter() - begin)
        result = match.result

        def wait() -> Tensor:
            begin = time.perf_counter()
            found = result()
            waited.append(time.perf_counter() - begin)
            return found

        match.result = wait
        return match

    npr_loss.start_matching = start
    try:
        yield
    finally:
        npr_loss.start_matching = original


def same_match(stage: Stage) -> Piece:
    """Whether the threads find what scipy finds, on this device."""
    generator = torch.Generator().manual_seed(0)
    similarity = torch.randn(stage.size(256, 16), 64, 64, generator=generator).to(stage.device)
    found = match_prototypes(similarity)
    expected = solve_plainly(similarity).result()
    wrong = int((found != expected).any(dim=1).sum())
    return Piece(f'{wrong} of {len(similarity)} matches differ', passed=wrong == 0)


def share_of_a_step(stage: Stage) -> Piece:
    """Steps with each solver and without NPR, of as many of 1024 pairs as fit."""
    for batch in (1024, 768, 512) if not stage.small else (8,):
        found = _share_if_it_fits(stage, batch)
        if found is not None:
            return found
        torch.cuda.empty_cache()
    raise MemoryError('a step of 512 pairs does not fit')


def _share_if_it_fits(stage: Stage, batch: int) -> Piece | None:
    try:
        return _share_of_a_step(stage, batch)
    except torch.OutOfMemoryError:
        return None


def _share_of_a_step(stage: Stage, batch: int) -> Piece:
    settings = Settings(batch, 20, torch.get_num_threads(), stage.device, '')
    config = str(TINY if stage.small else PGSEG)
    images, tokens = make_batch(config, settings, 32)
    model = Model(config, OPTION, settings)
    without = Model(
        config,
        OPTION,
        settings,
        cfg_options={
            'model.decode_head.loss_npr': None,
            'model.decode_head.text_prototypes': None,
        },
    )
    solvers: dict[str, Callable[..., Any]] = {
        THREADS: npr_loss.start_matching,
        PLAIN_CALL: solve_plainly,
        EVERY_CORE: start_on_every_core,
        GIVEN: match_given,
    }
    if importlib.util.find_spec('torch_linear_assignment'):
        solvers[ON_GPU] = solve_on_gpu
    waited: dict[str, list[float]] = {name: [] for name in solvers}
    plain_step = without.step(OPTION, images, tokens)
    step = model.step(OPTION, images, tokens)

    def run(name: str) -> None:
        with matched_by(solvers[name], waited[name]):
            step()

    watch = Stopwatch[str](stage.device)
    calls: dict[str, Callable[[], object]] = {'without NPR': plain_step}
    calls |= {name: partial(run, name) for name in solvers}
    rounds = stage.size(7, 2)
    watch.run(calls, rounds)
    rows, figures = [], {}
    for name in calls:
        seconds = watch.seconds[name]
        more = ratio(seconds, watch.seconds['without NPR'])['median'] - 1
        waits = sum(waited.get(name, [])) / (rounds + 1)
        rows.append(
            {
                'step': name,
                'ms': f'{1e3 * statistics.median(seconds):.1f}',
                'more than without NPR': f'{100 * more:.1f} %' if name in solvers else '',
                'the host waits for matches, ms': f'{1e3 * waits:.1f}' if name in solvers else '',
            }
        )
    saved = 1 - ratio(watch.seconds[THREADS], watch.seconds[PLAIN_CALL])['median']
    figures['threads save'] = saved
    missing = '' if ON_GPU in solvers else f'; {ON_GPU} is not installed'
    return Piece(
        f'threads save {100 * saved:.1f} % of the step with one plain call, {batch} pairs, '
        f'captions of 32 tokens{missing}',
        rows=rows,
        figures=figures,
    )


def main(stage: Stage) -> None:
    stage.run('matches', partial(same_match, stage))
    stage.run("NPR's share of a bf16 step", partial(share_of_a_step, stage))


if __name__ == '__main__':
    main(Stage.from_command_line())
