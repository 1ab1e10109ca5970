"""Whether numbers of a training step are right on this device, in each precision."""

from __future__ import annotations

import torch
from mmengine.config import Config
from mmseg.registry import MODELS

from pgseg_mm.models.layers import NonLearnablePrototypes, SyncBatchNorm

from ..training_contestants import Model, Option, Settings, make_batch
from .stage import TINY, Piece, Stage

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-8, 1e-6
"""Largest relative differences between devices, computed in float64."""
HALF_TOLERANCE = 0.02
"""Largest relative difference of the loss in half precision from that in float32."""
STEPS, AVERAGED, BATCHES = 50, 10, 16
"""Steps in each precision, how many of the last ones are averaged, and different batches."""
INITIAL_SCALE = 2.0**10
"""Of the gradients in fp16; at torch's own, 2 ** 16, the first steps are left out."""


def _losses_and_gradients(device: str, batch: int) -> tuple[dict[str, float], torch.Tensor]:
    cfg = Config.fromfile(TINY)
    cfg.model.backbone.update(gumbel=False, drop_path_rate=0.0)
    cfg.model.decode_head.loss_npr.begin = 0  # whatever was trained here before
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).double().train().to(device)
    settings = Settings(batch, 20, torch.get_num_threads(), 'cpu', '')  # the same numbers
    torch.manual_seed(1)
    images, tokens = make_batch(str(TINY), settings, 40)
    losses = model(images.double().to(device), tokens=tokens.to(device), mode='loss')
    total, values = model.parse_losses(losses)
    total.backward()
    gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters()])
    return {name: value.item() for name, value in values.items()}, gradient


def same_as_on_the_cpu(stage: Stage) -> Piece:
    """Losses and gradients of the tiny model, without noise, in float64."""
    batch = stage.size(32, 8)
    expected, gradient = _losses_and_gradients('cpu', batch)
    found, other = _losses_and_gradients(stage.device, batch)
    worst = max(abs(found[name] / value - 1) for name, value in expected.items())
    off = float((other - gradient).norm() / gradient.norm())
    return Piece(
        f'losses within {worst:.1e} (at most {LOSS_TOLERANCE}), gradient within {off:.1e} (at most '
        f'{GRADIENT_TOLERANCE}), {len(gradient)} parameters, float64',
        passed=found.keys() == expected.keys()
        and worst <= LOSS_TOLERANCE
        and off <= GRADIENT_TOLERANCE,
    )


def train_in_precision(option: Option, stage: Stage, steps: int) -> list[float]:
    batch = stage.size(64, 16)
    settings = Settings(BATCHES * batch, 20, torch.get_num_threads(), stage.device, '')
    model = Model(str(TINY), option, settings)
    torch.manual_seed(0)
    images, tokens = make_batch(str(TINY), settings, 40)
    scaler = torch.amp.GradScaler(stage.device, INITIAL_SCALE, enabled=option.precision == 'fp16')
    losses = []
    for index in range(steps):
        part = slice(index % BATCHES * batch, (index % BATCHES + 1) * batch)
        torch.manual_seed(index)  # the noise of a step is the same in all precisions
        losses.append(float(model.step(option, images[part], tokens[part], scaler)()))
    return losses


def half_precision(stage: Stage) -> Piece:
    """The loss after some steps in bf16 and fp16 beside that of float32."""
    steps, averaged = stage.size(STEPS, 4), stage.size(AVERAGED, 4)
    rows, worst = [], 0.0
    expected = None
    for name in ('float32', 'bf16', 'fp16'):
        losses = train_in_precision(Option(name, name), stage, steps)
        mean = sum(losses[-averaged:]) / averaged
        expected = mean if expected is None else expected
        off = mean / expected - 1
        worst = max(worst, abs(off)) if off == off else float('nan')
        rows.append(
            {
                'precision': name,
                'first loss': f'{losses[0]:.4f}',
                f'mean of the last {averaged} of {steps}': f'{mean:.4f}',
                'off by': f'{100 * off:.2f} %',
            }
        )
    return Piece(
        f'the loss is off by {100 * worst:.2f} % at most (allowed: {100 * HALF_TOLERANCE:.0f} %)',
        passed=worst <= HALF_TOLERANCE,
        rows=rows,
    )


def _states(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the prototypes' starts and of the statistics of batch norms."""
    kept = (NonLearnablePrototypes, SyncBatchNorm)
    return {
        f'{name}.{buffer}': value.clone()
        for name, part in module.named_modules()
        if isinstance(part, kept)
        for buffer, value in part.named_buffers(recurse=False)
    }


def _is_of_text(name: str, value: torch.Tensor) -> bool:
    return 'text_projector' in name and bool(value.isfinite().all())


def fp16_overflow(stage: Stage) -> Piece:
    """A step on images that overflow in fp16; their captions do not."""
    option = Option('fp16', 'fp16')
    settings = Settings(8, 20, torch.get_num_threads(), stage.device, '')
    model = Model(str(TINY), option, settings)
    images, tokens = make_batch(str(TINY), settings, 40)
    states = _states(model.module)
    weights = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    loss = float(model.step(option, 1e6 * images, tokens)())
    after = _states(model.module)
    moved = [
        name
        for name, value in states.items()
        if not (torch.equal(value, after[name]) or _is_of_text(name, after[name]))
    ]
    changed = [
        name for name, p in model.module.named_parameters() if not torch.equal(p, weights[name])
    ]
    sound = float(model.step(option, images, tokens)())
    again = _states(model.module)
    stuck = [name for name, value in states.items() if torch.equal(value, again[name])]
    overflowed = loss != loss or loss in (float('inf'), -float('inf'))
    return Piece(
        f"loss {loss}; it moves {moved + changed or 'nothing'} of the images' states and of "
        f'{len(weights)} weights; the next step, loss {sound:.3f}, moves '
        f'{len(states) - len(stuck)} states',
        passed=overflowed and not moved and not changed and not stuck and sound == sound,
    )
