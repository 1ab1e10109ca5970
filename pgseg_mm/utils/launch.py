"""What tools/train.py and tools/test.py share: arguments, the config and the process group."""

import argparse
import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch.distributed as torch_dist
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.hub import get_config

from .config_files import follow_settings, read_config_file
from .reading import DamagedFileError, FileAccessError


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing have in common.

    Args:
        parser: Parser that already has the positional arguments of its tool.
    """
    parser.add_argument('--work-dir', help='folder for logs and results')
    add_model_options(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes of a distributed job; without an accelerator only '
        'none and pytorch work, the latter over gloo',
    )
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=0,
        help='rank on this machine, for launchers that do not set LOCAL_RANK',
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add what a tool that takes a config and a checkpoint leaves to its user.

    Args:
        parser: Parser that already has the positional arguments of its tool.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings of the config to override, such as train_cfg.max_iters=10; a list is '
        'written key="[a,b]" or key=a,b and a nested one key="[(a,b),(c,d)]", without blanks',
    )
    parser.add_argument(
        '--trust',
        action='store_true',
        help='load checkpoints that hold more than tensors and logged values, and run whatever '
        'code is in them',
    )


def require_file(parser: argparse.ArgumentParser, name: str, path: str) -> None:
    """Leave with the parser's usage message unless a file exists.

    Args:
        parser: Parser that reports the error.
        name: Word for the file in the message, such as ``config``.
        path: Path of the file.
    """
    if not Path(path).is_file():
        parser.error(f'{name} file not found: {path}')


def find_config(parser: argparse.ArgumentParser, config: str) -> str:
    """Path of a config, or leave with the parser's usage message if there is none.

    Args:
        parser: Parser that reports the error.
        config: A file, or the name of a config that an installed package brings along, such as
            ``pgseg_mm::pgseg/pgseg_tiny-p8_emoji-scenes-64x64.py``.

    Returns:
        Path of the file.
    """
    if '::' not in config:
        require_file(parser, 'config', config)
        return config
    try:
        return get_config(config).filename
    except (AssertionError, FileNotFoundError, ValueError) as error:
        parser.error(f'installed config not found: {config} ({error})')


def read_model_config(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Config:
    """Config of a tool that takes a config and a checkpoint, with :func:`add_model_options`.

    Leaves with the parser's usage message if either is not there.

    Args:
        parser: Parser that reports the error.
        args: Parsed arguments; ``config`` becomes the path of the file.

    Returns:
        The config with the settings that were overridden.
    """
    args.config = find_config(parser, args.config)
    require_file(parser, 'checkpoint', args.checkpoint)
    cfg = read_config(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    follow_settings(cfg)
    return cfg


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply the arguments of :func:`add_launch_arguments`.

    The work directory is, in this order: ``--work-dir``, the config's own, or
    ``work_dirs/NAME_OF_THE_CONFIG`` in the current directory.

    Args:
        args: Parsed arguments, with ``config`` among them.

    Returns:
        The config, ready for the Runner but for what is particular to a tool.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config)
    cfg.launcher = args.launcher
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    follow_settings(cfg)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def read_config(config: str) -> Config:
    """Read a config file; one in a folder ``projects`` can import modules as ``projects.NAME``.

    Args:
        config: Path of the file.
    """
    for folder in Path(config).resolve().parents:
        if folder.name == 'projects' and str(folder.parent) not in sys.path:
            sys.path.append(str(folder.parent))
    return read_config_file(config)


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
    seconds = cfg.env_cfg.dist_cfg.get('timeout')
    torch_dist.init_process_group(
        'gloo', timeout=None if seconds is None else timedelta(seconds=seconds)
    )
    if torch_dist.get_rank() == 0:
        print('No accelerator found: the processes communicate over gloo, on CPUs.', flush=True)


def check_loading_of(cfg: Config) -> None:
    """Have evaluation by a config name damaged files, and do without labels where there are none.

    Args:
        cfg: The config, changed in place.
    """
    hooks = cfg.get('default_hooks') or {}
    cfg.default_hooks = {**hooks, 'checked_loading': {'type': 'CheckedLoadingHook'}}


@contextmanager
def data_errors() -> Iterator[None]:
    """Leave with a sentence, and status 1, where a file is damaged or the system cannot read it."""
    try:
        yield
    except (DamagedFileError, FileAccessError) as error:
        sys.exit(f'error: {error}')


def end_job() -> None:
    """Close the process group, if there is one, when the work of a distributed job is done.

    DistributedDataParallel keeps gloo's threads alive even when the group is closed, and now and
    then one of them aborts a process while its interpreter is taken down ("terminate called without
    an active exception"), so that a job fails that has done its work. A process of a gloo job
    therefore ends here, behind what is registered to run at exit. A job that has failed must not
    come here: its ranks cannot wait for each other.
    """
    if not torch_dist.is_initialized():
        return
    backend = torch_dist.get_backend()
    torch_dist.barrier()
    torch_dist.destroy_process_group()
    if backend == 'gloo':
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
