from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor

from pgseg_mm.errors import NotFiniteError
from pgseg_mm.messages import first_of

from .data_state_hook import read_records


def last_good_checkpoint(runner: Runner) -> str:
    """Where the last complete checkpoint is, in a sentence."""
    path = runner.message_hub.runtime_info.get('last_ckpt')
    return f'The last good checkpoint is {path}.' if path else 'There is no checkpoint yet.'


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Ends the run when the loss of a step is NaN or infinite.

    Each rank looks at the loss that the model logs in every step, for which mmengine has waited
    already (``RuntimeInfoHook`` logs it), and at nothing else: an infinite gradient that a gradient
    scaler leaves out is no reason to stop. PGSeg's is the mean over ranks, so any rank's batch may
    be the cause. A rank that ends takes the others along, by its launcher. No checkpoint is written
    of such a step (:class:`SafeCheckpointHook`).

    Raises:
        FloatingPointError: If the loss is not finite. The message names the step, the samples and
            the last good checkpoint; a file in the log folder has all the samples.
    """

    # after RuntimeInfoHook, before checkpoints
    priority = 'HIGH'

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Look at the loss."""
        outputs = outputs or {}
        loss = _to_float(outputs.get('loss', 0.0))
        if math.isfinite(loss):
            return
        keys = sample_names(data_batch)
        path = Path(runner.log_dir) / f'samples_iter{runner.iter + 1}_rank{get_rank()}.txt'
        path.write_text('\n'.join(keys) + '\n', encoding='utf-8')
        bad = [k for k, v in outputs.items() if k != 'loss' and not math.isfinite(_to_float(v))]
        others = ', those of other ranks beside it' if get_world_size() > 1 else ''
        raise NotFiniteError(
            f'the loss of step {runner.iter + 1} is {loss} on rank {get_rank()}'
            + (f' (not finite: {", ".join(bad)})' if bad else '')
            + f'. Its batch: {first_of(keys)}; all of them are in {path}{others}. '
            f'{last_good_checkpoint(runner)} Samples may be the '
            'cause; if not, lower the learning rate or train in float32 or bfloat16.'
        )


def _to_float(value: Tensor | float) -> float:
    return value.item() if isinstance(value, Tensor) else value


def sample_names(data_batch: Any) -> list[str]:
    """What the samples of a batch are called: their record's key, or the image's path."""
    samples = data_batch.get('data_samples', []) if isinstance(data_batch, dict) else []
    return [
        record.key if record is not None else str(sample.get('img_path', 'a sample without a name'))
        for record, sample in zip(read_records(data_batch), samples, strict=True)
    ]
