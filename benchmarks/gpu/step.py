"""How fast a training step is, by precision and option, and against transformers' GroupViT.

Model-FLOPs utilisation is the number of floating-point operations per second over the dense peak of
the device in the same precision.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ..groupvit_peer import PEER, load_peer
from ..timing import MIB, Stopwatch
from ..training_contestants import GPU_OPTIONS, Model, Option, Settings, make_batch
from .flops import SMALLEST_BATCH, TOKENS, flops_of_a_pair, model_of, peak_tflops
from .stage import Piece, Stage

TRIMMED = 32
"""Length of a caption as our data preprocessor cuts it."""
FILLED = 0.85
"""Share of the GPU's memory that the largest batch may take, by a linear forecast."""
KERNELS = 10


class StepContestant:
    """A model in one of the ways to train, with what its steps took.

    Args:
        name: Which model.
        option_name: Which of :data:`GPU_OPTIONS`.
        settings: Batch and device.
        tokens: Length of a caption.
        models: Those that are there, with their bytes; contestants that train alike share one.
    """

    def __init__(
        self,
        name: str,
        option_name: str,
        settings: Settings,
        tokens: int,
        models: dict[tuple, tuple[Model, int]] | None = None,
    ) -> None:
        self.name = name
        self.option: Option = GPU_OPTIONS[option_name]
        self.option_name = option_name
        self.tokens = tokens
        self.settings = settings
        models = {} if models is None else models
        before = _allocated(settings.device)
        config, cfg_options = model_of(name, settings)
        key = (name, self.option.weights)
        if key not in models:
            model = Model(config, self.option, settings, name == PEER, cfg_options)
            models[key] = model, _allocated(settings.device) - before
            before = _allocated(settings.device)
        self.model, of_model = models[key]
        batch = replace(settings, words=min(settings.words, tokens - 2))
        self.step = self.model.step(self.option, *make_batch(config, batch, tokens))
        self.own = of_model + _allocated(settings.device) - before
        self.peak = 0

    def warm_up(self, steps: int) -> None:
        """Take the first steps; the last of them measures peak memory.

        Raises:
            FloatingPointError: If the loss is not finite.
        """
        for _ in range(steps):
            loss = self.step()
        if not loss.isfinite():
            raise FloatingPointError(f'{self.name}, {self.option.label}: the loss is {loss}')
        before = _allocated(self.settings.device)
        _reset_peak(self.settings.device)
        self.step()
        states = sum(
            value.numel() * value.element_size()
            for state in self.model.optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor)
        )
        self.peak = _peak(self.settings.device) - before + self.own + states


def _allocated(device: str) -> int:
    return torch.cuda.memory_allocated() if device == 'cuda' else 0


def _reset_peak(device: str) -> None:
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == 'cuda' else 0


def largest_batch(stage: Stage, tokens: int = TOKENS) -> int:
    """The largest multiple of 256 pairs that a bf16 step of PGSeg has room for."""
    if stage.small or stage.device == 'cpu':
        return 8
    peaks = []
    for batch in (64, 128):
        case = StepContestant('PGSeg', 'bf16', settings_of(stage, batch), tokens)
        case.warm_up(1)
        peaks.append(case.peak)
        del case
        torch.cuda.empty_cache()
    each = (peaks[1] - peaks[0]) / 64
    room = FILLED * torch.cuda.get_device_properties(0).total_memory - (peaks[0] - 64 * each)
    return max(256, int(room / each) // 256 * 256)


def settings_of(stage: Stage, batch: int) -> Settings:
    """Settings of steps of so many pairs."""
    words = 20 if batch < SMALLEST_BATCH else TOKENS - 2
    # a dry run traces, but does not wait for a C++ compiler
    backend = 'eager' if stage.small else 'inductor'
    return Settings(batch, words, torch.get_num_threads(), stage.device, backend)


def _try_to_start(
    stage: Stage, name: str, option: str, settings: Settings, tokens: int, models: dict
) -> StepContestant | None:
    """A contestant behind its first steps, if it fits into memory."""
    try:
        case = StepContestant(name, option, settings, tokens, models)
        case.warm_up(1 if stage.small else 3)
    except torch.OutOfMemoryError:
        return None
    return case


def measure(
    stage: Stage, wanted: Sequence[tuple[str, str, int]], batch: int, to_compile: float = 25
) -> list[dict]:
    """Times and memory of some steps, turn about.

    Args:
        stage: The stage.
        wanted: Model, option and length of a caption of each.
        batch: Pairs of a step.
        to_compile: Seconds without which a compiled step is not begun; by default those of a step
            that is in the compiler's cache.

    Returns:
        Rows; one that does not fit, or that the stage has no time for, says so.
    """
    settings = settings_of(stage, batch)
    cases: list[StepContestant] = []
    models: dict[tuple, tuple[Model, int]] = {}
    rows: list[dict[str, Any]] = []
    for name, option, tokens in wanted:
        row = {'model': name, 'option': option, 'batch': batch, 'tokens': tokens}
        compiled = GPU_OPTIONS[option].compiled
        if stage.seconds_left < (to_compile if compiled and not stage.small else 15):
            rows.append({**row, 'failed': 'not begun: no time left'})
            continue
        case = _try_to_start(stage, name, option, settings, tokens, models)
        if case is None:  # what the failed attempt held is free by now
            used = {id(other.model) for other in cases}
            models = {key: each for key, each in models.items() if id(each[0]) in used}
            torch.cuda.empty_cache()
            rows.append({**row, 'failed': 'does not fit'})
            continue
        cases.append(case)
        rows.append(row)
    watch = Stopwatch[int](stage.device)
    watch.run({i: case.step for i, case in enumerate(cases)}, stage.size(6, 2))
    measured = iter(enumerate(cases))
    for row in rows:
        if 'failed' in row:
            continue
        index, case = next(measured)
        seconds = statistics.median(watch.seconds[index])
        # joined images attend otherwise; what they need is not counted
        counted = case.name != PEER and not case.option.joined
        flops = flops_of_a_pair(case.name, settings, case.tokens) if counted else 0.0
        peak = peak_tflops(case.option.precision)
        rate = flops * batch / seconds
        row.update(
            seconds=seconds,
            images_per_second=batch / seconds,
            peak_gib=case.peak / MIB / 1024 if stage.device == 'cuda' else None,
            tflops=rate / 1e12 if counted else None,
            utilisation=rate / 1e12 / peak if counted and peak else None,
        )
    return rows


def table(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows of :func:`measure` as the report shows them."""

    def show(row: dict[str, Any], key: str, form: str, factor: float = 1.0) -> str:
        return '' if row.get(key) is None else form.format(factor * row[key])

    return [
        {
            'model': row['model'],
            'step': GPU_OPTIONS[row['option']].label,
            'pairs': str(row['batch']),
            'tokens': str(row['tokens']),
            'ms': row.get('failed') or show(row, 'seconds', '{:.1f}', 1e3),
            'images/s': show(row, 'images_per_second', '{:.0f}'),
            'peak, GiB': show(row, 'peak_gib', '{:.2f}'),
            'TFLOP/s': show(row, 'tflops', '{:.1f}'),
            'utilisation': show(row, 'utilisation', '{:.1f} %', 100),
        }
        for row in rows
    ]


def _value(rows: list[dict], model: str, option: str, key: str, tokens: int = TOKENS) -> Any:
    alike = (row for row in rows if (row['model'], row['option']) == (model, option))
    return next((row.get(key) for row in alike if row['tokens'] == tokens), None)


def _piece(rows: list[dict[str, Any]], figures: dict[str, float | None]) -> Piece:
    measured = sum('failed' not in row for row in rows)
    return Piece(
        f'{measured} of {len(rows)} steps measured',
        passed=True if measured == len(rows) else None,
        rows=table(rows),
        figures={name: value for name, value in figures.items() if value is not None},
    )


def _ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one / other


def steps(stage: Stage) -> Piece:
    """Precisions and options at 256 pairs, ours and transformers', turn about."""
    eager = ['float32', 'tf32', 'fp16', 'bf16']
    joined = ['bf16-pastes', 'bf16-late-interaction', 'bf16-mosaics']
    more = ['bf16-loop-adamw', 'bf16-checkpointing', *joined]
    wanted = [('PGSeg', name, TOKENS) for name in (*eager, *more)]
    wanted += [('GroupViT', name, TOKENS) for name in eager]
    wanted += [('PGSeg', 'bf16', TRIMMED), ('GroupViT', 'bf16', TRIMMED)]
    if load_peer():
        wanted += [(PEER, name, TOKENS) for name in eager]
    if stage.small:
        kept = ('bf16', 'fp16', 'bf16-late-interaction', 'bf16-mosaics')
        wanted = [w for w in wanted if w[1] in kept]
    rows = measure(stage, wanted, stage.size(256, 4))
    value = partial(_value, rows)
    figures = {
        f'peer {name}': _ratio(value('GroupViT', name, 'images_per_second'), theirs)
        for name in eager
        if (theirs := value(PEER, name, 'images_per_second'))
    }
    figures['images_per_second eager 256'] = value('PGSeg', 'bf16', 'images_per_second')
    trimmed = value('GroupViT', 'bf16', 'images_per_second', TRIMMED)
    figures['peer as trained'] = _ratio(trimmed, value(PEER, 'bf16', 'images_per_second'))
    figures['npr bf16'] = _ratio(
        value('PGSeg', 'bf16', 'seconds'), value('GroupViT', 'bf16', 'seconds')
    )
    plain = value('PGSeg', 'bf16', 'seconds')
    figures['fused adamw'] = _ratio(value('PGSeg', 'bf16-loop-adamw', 'seconds'), plain)
    figures |= {name: _ratio(value('PGSeg', name, 'seconds'), plain) for name in joined}
    return _piece(rows, figures)


def compiled(stage: Stage) -> Piece:
    """torch.compile beside the plain step, in bf16 and at 256 pairs."""
    wanted = [('PGSeg', name, TOKENS) for name in ('bf16', 'bf16-compile')]
    wanted += [] if stage.small else [('GroupViT', 'bf16-compile', TOKENS)]
    rows = measure(stage, wanted, stage.size(256, 4))
    value = partial(_value, rows)
    pair = ('bf16', 'bf16-compile')
    figures = {
        'compile': _ratio(*(value('PGSeg', name, 'seconds') for name in pair)),
        'images_per_second 256': value('PGSeg', 'bf16-compile', 'images_per_second'),
        'npr bf16 compiled': _ratio(
            value('PGSeg', 'bf16-compile', 'seconds'), value('GroupViT', 'bf16-compile', 'seconds')
        ),
    }
    return _piece(rows, figures)


def compiled_in_other_precisions(stage: Stage) -> Piece:
    """The same in the other precisions, as far as there is time."""
    names = [f'{precision}{way}' for precision in ('fp16', 'tf32') for way in ('', '-compile')]
    wanted = [('PGSeg', name, TOKENS) for name in names[: stage.size(4, 2)]]
    return _piece(measure(stage, wanted, stage.size(256, 4)), {})


def largest(stage: Stage, batch: int) -> Piece:
    """The largest batch, plain."""
    wanted = [('PGSeg', 'bf16', TOKENS), ('GroupViT', 'bf16', TOKENS)]
    if load_peer() and not stage.small:
        wanted.append((PEER, 'bf16', TOKENS))
    rows = measure(stage, wanted, batch)
    seconds = [_value(rows, name, 'bf16', 'seconds') for name in ('PGSeg', 'GroupViT')]
    figures = {
        'images_per_second': _value(rows, 'PGSeg', 'bf16', 'images_per_second'),
        'npr bf16 largest': _ratio(*seconds),
        'batch': float(batch),
    }
    return _piece(rows, figures)


def largest_compiled(stage: Stage) -> Piece:
    """The largest batch, compiled."""
    batch = int(stage.figure('largest batch', 'batch') or stage.size(1024, 8))
    rows = measure(stage, [('PGSeg', 'bf16-compile', TOKENS)], batch, to_compile=60)
    value = partial(_value, rows, 'PGSeg', 'bf16-compile')
    figures = {
        'mfu': value('utilisation'),
        'images_per_second compiled': value('images_per_second'),
    }
    return _piece(rows, figures)


def kernels(stage: Stage, option: str) -> Piece:
    """The ten longest kernels of a step."""
    case = StepContestant('PGSeg', option, settings_of(stage, stage.size(1024, 4)), TOKENS)
    case.warm_up(1)
    on_cuda = stage.device == 'cuda'
    activities = [ProfilerActivity.CUDA] if on_cuda else [ProfilerActivity.CPU]
    with profile(activities=activities) as recorded:
        case.step()
        stage.synchronize()
    key = 'self_device_time_total' if on_cuda else 'self_cpu_time_total'
    spent = sorted(
        ((getattr(event, key), event.count, event.key) for event in recorded.key_averages()),
        reverse=True,
    )
    total = sum(entry[0] for entry in spent)
    return Piece(
        f'{total / 1e3:.1f} ms in kernels, {GPU_OPTIONS[option].label}',
        passed=total > 0,
        rows=[
            {
                'kernel': f'`{name[:90].replace("|", "/")}`',
                'ms': f'{time / 1e3:.2f}',
                'share': f'{100 * time / total:.1f} %',
                'calls': str(count),
            }
            for time, count, name in spent[:KERNELS]
        ],
    )


def main(stage: Stage) -> None:
    # what is compared with other projects comes first: the time may not be enough for all
    run(stage, 'precisions and options', partial(steps, stage))
    run(stage, 'largest batch', lambda: largest(stage, largest_batch(stage)))
    run(stage, 'longest kernels', partial(kernels, stage, 'bf16'))
    run(stage, 'torch.compile', partial(compiled, stage))
    run(stage, 'largest batch, compiled', partial(largest_compiled, stage))
    if (stage.figure('torch.compile', 'compile') or 0) > 1:
        run(stage, 'longest kernels, compiled', partial(kernels, stage, 'bf16-compile'), needs=60)
    run(stage, 'torch.compile, other precisions', partial(compiled_in_other_precisions, stage))


def run(stage: Stage, name: str, piece: Callable[[], Piece], needs: float = 0.0) -> None:
    """Run a piece with the GPU's memory free."""
    if stage.device == 'cuda':
        gc.collect()
        torch.cuda.empty_cache()
    stage.run(name, piece, 0.0 if stage.small else needs)


if __name__ == '__main__':
    main(Stage.from_command_line())
