from __future__ import annotations

import torch
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.utils import digit_version
from mmseg.registry import HOOKS
from torch import nn

from pgseg_mm.errors import PreflightError
from pgseg_mm.integration import allow_graphs
from pgseg_mm.models.layers import GroupingBlock, TransformerBlocks

RECOMPILE_LIMIT = 64
"""Graphs that are made before torch gives up; its default of 8 is for one module alone."""


def compile_parts(model: nn.Module, backend: str = 'inductor') -> int:
    """Send the transformer blocks and grouping blocks of a model through ``torch.compile``.

    They are compiled in place: names of parameters stay as they are, and a deep copy is not
    compiled. Clustering, matching, batch norm over all ranks and losses stay outside: they
    wait for other threads or ranks, or move state. The graph of the text blocks takes batches and
    captions of any length; those of the image blocks are made for the size of the crops.

    Args:
        model: Any model with such blocks, wrapped or not.
        backend: Backend of ``torch.compile``.

    Returns:
        The number of parts that are compiled.

    Raises:
        ValueError: If the model has no such part.
    """
    kinds = (TransformerBlocks, GroupingBlock)
    parts = [part for part in model.modules() if isinstance(part, kinds)]
    if not parts:
        raise PreflightError(
            f'{type(model).__name__} has neither TransformerBlocks nor GroupingBlock, and so '
            'nothing that is worth compiling; train it without compilation'
        )
    allow_graphs(RECOMPILE_LIMIT)
    # random numbers are those of the model that is not compiled
    options = {'fallback_random': True} if backend == 'inductor' else None
    for part in parts:
        causal = isinstance(part, TransformerBlocks) and part.is_causal
        part.compile(backend=backend, dynamic=causal, options=options)
    return len(parts)


def check_backend(backend: str, device: str) -> None:
    """Compile something small, to find out before the training starts whether it can be done.

    Args:
        backend: Backend of ``torch.compile``.
        device: Device of the training, such as ``'cpu'`` or ``'cuda'``.

    Raises:
        RuntimeError: If the backend is unknown or lacks something, such as a C++ compiler.
    """
    x = torch.ones(8, device=device, requires_grad=True)
    try:
        torch.compile(lambda x: x.sin() + 1, backend=backend)(x).sum().backward()
    except Exception as error:
        needs = 'a C++ compiler such as g++' if device == 'cpu' else 'Triton and a C compiler'
        raise RuntimeError(
            f'torch.compile does not work here with the backend {backend!r}. On {device} the '
            f'backend inductor needs {needs}; install it, or train without compilation'
        ) from error


@HOOKS.register_module()
class CompileHook(Hook):
    """Trains with the model's blocks compiled; evaluation, whose images have any size, does not.

    Checkpoints, resuming, activation checkpointing, mixed precision, EMA and distributed training
    work as without it.

    Args:
        backend: Backend of ``torch.compile``.

    Raises:
        RuntimeError: If torch is older than 2.6, or the backend does not work on this machine.
    """

    def __init__(self, backend: str = 'inductor') -> None:
        if digit_version(torch.__version__) < digit_version('2.6'):
            raise RuntimeError(
                f'training with torch.compile needs torch 2.6 or later, this is {torch.__version__}'
            )
        check_backend(backend, get_device())
        self.backend = backend

    def before_train(self, runner: Runner) -> None:
        """Compile, after the model was wrapped and EMA made its copy."""
        torch.compiler.set_stance('default')  # an earlier run may have left it otherwise
        count = compile_parts(runner.model, self.backend)
        runner.logger.info(
            f'{count} parts of the model are compiled by {self.backend}, in the first steps'
        )

    def before_val(self, runner: Runner) -> None:
        """Run uncompiled."""
        torch.compiler.set_stance('force_eager')

    def after_val(self, runner: Runner) -> None:
        """Run compiled again."""
        torch.compiler.set_stance('default')

    def after_train(self, runner: Runner) -> None:
        """Leave the model as it was, for a test in the same process."""
        torch.compiler.set_stance('force_eager')
