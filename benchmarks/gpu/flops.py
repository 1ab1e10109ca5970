"""Floating-point operations of a training step, and the device's peak.

They are those of the products that the model asks for: counted operation by operation (torch's
FlopCounterMode, two for a multiply-add) in a forward and a backward pass without recomputation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..training_contestants import Model, Option, Settings, make_batch
from .stage import GROUPVIT, PGSEG, TINY

TFLOPS = {
    'NVIDIA H100 PCIe': {'float32': 51.2, 'tf32': 378.0, 'fp16': 756.0, 'bf16': 756.0},
    'NVIDIA H100 NVL': {'float32': 60.0, 'tf32': 417.5, 'fp16': 835.5, 'bf16': 835.5},
    'NVIDIA H100': {'float32': 66.9, 'tf32': 494.7, 'fp16': 989.4, 'bf16': 989.4},
    'NVIDIA H200': {'float32': 66.9, 'tf32': 494.7, 'fp16': 989.4, 'bf16': 989.4},
    'NVIDIA A100': {'float32': 19.5, 'tf32': 156.0, 'fp16': 312.0, 'bf16': 312.0},
}
"""Dense peaks by the beginning of the device's name, from the vendor's data sheets."""
TOKENS = 77
"""Length of a caption as the tokenizer makes it."""
SMALLEST_BATCH = 32
"""Below it is a dry run."""


def model_of(name: str, settings: Settings) -> tuple[str, dict[str, Any]]:
    """Config and overridden settings of a model; that of a dry run is tiny."""
    if settings.batch >= SMALLEST_BATCH:
        return str(PGSEG if name == 'PGSeg' else GROUPVIT), {}
    options: dict[str, Any] = {'model.text_encoder.context_length': TOKENS}
    if name != 'PGSeg':
        options |= {'model.backbone.prototypes': None, 'model.decode_head.loss_npr': None}
    return str(TINY), options


def peak_tflops(precision: str) -> float | None:
    """The device's dense peak, TFLOP/s, if it is known."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    rates = next((rates for start, rates in TFLOPS.items() if name.startswith(start)), {})
    return rates.get(precision)


def flops_of_a_pair(name: str, settings: Settings, tokens: int) -> float:
    """Floating-point operations of a training step for each pair, counted on the CPU once."""
    config, cfg_options = model_of(name, settings)
    key = (config, str(cfg_options), tokens)
    if key not in _counted:
        _counted[key] = _count_flops(config, cfg_options, tokens)
    return _counted[key]


_counted: dict[tuple[str, str, int], float] = {}


def _count_flops(config: str, cfg_options: dict[str, Any], tokens: int) -> float:
    settings = Settings(2, tokens - 2, torch.get_num_threads(), 'cpu', '')
    model = Model(config, Option('counted'), settings, cfg_options=cfg_options)
    images, words = make_batch(config, settings, tokens)
    torch.backends.mha.set_fastpath_enabled(False)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.loss(images, words).backward()
    return counter.get_total_flops() / settings.batch
