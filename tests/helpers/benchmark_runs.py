"""Benchmarks at a tiny size, run in this process; what they measure apart, they measure apart."""

import importlib
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from plain_configs import unformatted
from prepared_processes import prepared

ROOT = Path(__file__).parents[2]
SMALL_CONFIG = """
custom_imports = dict(imports=['pgseg_mm'])
model = dict(
    type='PGSeg',
    backbone=dict(
        type='PGSegViT', img_size=32, patch_size=8, embed_dims=24, depths=(1, 1), num_heads=3,
        num_group_tokens=(6, 0), num_output_groups=(6,), prototypes=dict(hidden_channels=16),
        out_type='groups'),
    text_encoder=dict(
        type='PGSegTextTransformer', embed_dims=64, num_layers=1, context_length=77),
    decode_head=dict(
        type='PGSegHead', in_channels=24, channels=20, text_channels=64, hidden_channels=32,
        background_threshold=0.9, loss_npr=dict(type='NPRLoss')),
    test_cfg=dict(mode='slide', crop_size=32, stride=16))
"""


def write_small_config(path: Path, prototypes: bool = True) -> Path:
    """Write the config of a model of two stages."""
    text = SMALL_CONFIG
    if not prototypes:
        text = text.replace('prototypes=dict(hidden_channels=16)', 'prototypes=None')
        text = text.replace(", loss_npr=dict(type='NPRLoss')", '')
    path.write_text(text)
    return path


def run_benchmark(monkeypatch, name: str, *arguments: object) -> None:
    """Run a benchmark's ``main``; its fresh processes have imported torch already.

    Args:
        monkeypatch: pytest's.
        name: Module in ``benchmarks/``.
        arguments: Those of the command line.
    """
    threads = torch.get_num_threads()
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        module = importlib.import_module(f'benchmarks.{name}')
        timing = importlib.import_module('benchmarks.timing')
        for part in (module, timing):
            if hasattr(part, 'get_context'):
                patch.setattr(part, 'get_context', lambda method: prepared)
        patch.setattr(sys, 'argv', [f'{name}.py', *map(str, arguments)])
        try:
            module.main()
        finally:
            torch.set_num_threads(threads)


class PlainProcesses:
    """Prepared processes that do not format the configs that they write, which takes a second."""

    @staticmethod
    def Process(target: Callable[..., object], args: tuple) -> BaseProcess:  # noqa: N802
        return prepared.Process(target=_call_plainly, args=(target, args))


def _call_plainly(target: Callable[..., object], args: tuple) -> None:
    with unformatted():
        target(*args)
