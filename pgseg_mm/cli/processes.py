"""How the process of a script begins and ends, alone or as one of several."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.device import get_device

from pgseg_mm.errors import PreflightError, RunError
from pgseg_mm.files.reading import DamagedFileError, FileAccessError
from pgseg_mm.integration import end_process
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.work_folders import FolderInUseError


def prepare_distributed(cfg: Config) -> None:
    """Make a distributed job run over gloo when the machine has no accelerator.

    MMEngine selects a CUDA device before it opens the process group and hands that device to
    DistributedDataParallel; neither works on a CPU. So the group is opened here, before the Runner
    looks for one, and the model wrapper is told to use no device. A job on an accelerator, or of
    one process without a launcher, is left as it is.

    Args:
        cfg: The config, changed in place.

    Raises:
        ValueError: If the launcher is slurm or mpi and there is no accelerator.
    """
    if cfg.launcher == 'none' or get_device() != 'cpu':
        return
    if cfg.launcher != 'pytorch':
        raise ValueError(
            f'launcher "{cfg.launcher}" needs an accelerator and none was found; '
            'on CPUs start the job with torchrun and --launcher pytorch'
        )
    cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
    if 'model_wrapper_cfg' not in cfg:
        cfg.model_wrapper_cfg = {
            'type': 'MMDistributedDataParallel',
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
        }
    cfg.model_wrapper_cfg.device_ids = None
    if torch_dist.is_initialized():  # by an earlier run of the same process
        return
    seconds = cfg.env_cfg.dist_cfg.get('timeout')
    torch_dist.init_process_group(
        'gloo', timeout=None if seconds is None else timedelta(seconds=seconds)
    )
    if torch_dist.get_rank() == 0:
        print('No accelerator found: the processes communicate over gloo, on CPUs.', flush=True)


@contextmanager
def refusals(parser: argparse.ArgumentParser) -> Iterator[None]:
    """End the program with one sentence and status 2 where a run is refused.

    Args:
        parser: Parser of the tool, for its name.
    """
    try:
        yield
    except (CheckpointError, FolderInUseError, PreflightError) as error:
        parser.exit(2, f'{parser.prog}: error: {error}\n')


@contextmanager
def data_errors(*others: type[Exception]) -> Iterator[None]:
    """Leave with a sentence, and status 1, where data or machine keep a run from going on.

    Args:
        others: Further errors that are about the data.
    """
    kinds: tuple[type[Exception], ...] = (DamagedFileError, FileAccessError, RunError, *others)
    try:
        yield
    except kinds as error:
        sys.exit(f'error: {error}')


def end_job(status: int = 0) -> None:
    """Close the process group, if there is one, when the work of a distributed job is done.

    A process of a gloo job ends here (:func:`.integration.end_process`), or a job could fail that
    has done its work. A job that has failed must not come here: its ranks cannot wait for each
    other.

    Args:
        status: Exit status of the process, the same on all ranks.
    """
    if not torch_dist.is_initialized():
        if status:
            sys.exit(status)
        return
    backend = torch_dist.get_backend()
    torch_dist.barrier()
    torch_dist.destroy_process_group()
    if backend == 'gloo':
        end_process(status)
    if status:
        sys.exit(status)
