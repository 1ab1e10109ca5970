"""What tools/train.py and tools/test.py share: arguments, the config and the process group."""

import argparse
import atexit
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hub import get_config

from pgseg_mm.errors import PreflightError, RunError
from pgseg_mm.files.reading import DamagedFileError, FileAccessError
from pgseg_mm.messages import quoted
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.locating import check_source
from pgseg_mm.serialization.work_folders import FolderInUseError

from .checkpoint_sources import require_checkpoint
from .config_files import ConfigError, SettingsAction, override, read_config_file
from .folders import check_writable_file

MMENGINE_HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
)
"""Hooks that mmengine has without being told, and that a config switches off with ``None``."""
SECTIONS = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}
"""Sections of a config that go together."""
SWITCHED_OFF = ('env_cfg', 'randomness', 'log_level')
"""Settings that a Runner has defaults for, but only where they are not there at all."""
MAX_REASON = 200


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
        help="what started the processes of a distributed job (default: the config's launcher, or "
        'none); without an accelerator only none and pytorch work, the latter over gloo',
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
    add_settings(parser)
    parser.add_argument(
        '--trust',
        action='store_true',
        help='load checkpoints that hold more than tensors and logged values, and run whatever '
        'code is in them',
    )
    parser.add_argument(
        '--allow-partial',
        action='store_true',
        help='take a checkpoint that lacks weights of the model; those keep their random values',
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``.

    Args:
        parser: Parser of a tool that takes a config.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=SettingsAction,
        metavar='KEY=VALUE',
        help='settings of the config to override, such as train_cfg.max_iters=10; a list is '
        'written key="[a,b]" or key=a,b and a nested one key="[(a,b),(c,d)]", without blanks',
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
    require_checkpoint(parser, args.checkpoint)
    return read_with_settings(parser, args)


def read_with_settings(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Config:
    """Config of a tool with :func:`add_settings`; ``config`` is the path of the file.

    Leaves with the parser's usage message if it cannot be read.

    Args:
        parser: Parser that reports the error.
        args: Parsed arguments.

    Returns:
        The config with the settings that were overridden.
    """
    try:
        cfg = read_config(args.config)
        override(cfg, args.cfg_options)
    except ConfigError as error:
        parser.error(str(error))
    return cfg


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply the arguments of :func:`add_launch_arguments`.

    The work directory is, in this order: ``--work-dir``, the config's own, or
    ``work_dirs/NAME_OF_THE_CONFIG`` in the current directory.

    Args:
        args: Parsed arguments, with ``config`` among them.

    Returns:
        The config, ready for the Runner but for what is particular to a tool.

    Raises:
        ConfigError: If the config cannot be read, or an option does not fit it.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config)
    if args.launcher is not None:
        cfg.launcher = args.launcher
    elif cfg.get('launcher') is None:
        cfg.launcher = 'none'
    override(cfg, args.cfg_options)
    for name in SWITCHED_OFF:
        if name in cfg and cfg[name] is None:
            cfg.pop(name)
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


def add_checks(cfg: Config, allow_partial: bool = False, new_schedule: bool = False) -> None:
    """Add the hooks that check a run before its first step, to a config of any kind.

    What the config says of them itself stays: ``None`` switches a hook off.

    Args:
        cfg: The config, changed in place.
        allow_partial: Whether to take a checkpoint that lacks weights of the model.
        new_schedule: Whether a resumed run goes on by the schedule of the config.
    """
    hooks = dict(cfg.get('default_hooks') or {})
    # names with their scope are found from configs of other libraries, too
    hooks.setdefault('preflight', {'type': 'mmseg.PreflightHook'})
    hooks.setdefault('weights', {'type': 'mmseg.WeightsHook'})
    hooks.setdefault('schedule', {'type': 'mmseg.ScheduleHook'})
    if allow_partial:
        hooks['weights'] = {'type': 'mmseg.WeightsHook', 'allow_partial': True}
    if new_schedule:
        hooks['schedule'] = {'type': 'mmseg.ScheduleHook', 'source': 'config'}
    # mmengine takes None for its own hooks only
    cfg.default_hooks = {
        name: hook for name, hook in hooks.items() if hook is not None or name in MMENGINE_HOOKS
    }


def check_resume(cfg: Config) -> None:
    """Refuse a ``resume`` that names a file, which a Runner would take for True alone.

    Args:
        cfg: The config.

    Raises:
        ConfigError: If it is neither true nor false.
    """
    if (given := cfg.get('resume')) not in (None, True, False):
        raise ConfigError(
            f'resume is True or False, got {quoted(given)}; to go on from a checkpoint that is '
            'not the latest of the work directory, set resume=True and load_from to its file'
        )


def require_weights(cfg: Config) -> None:
    """Refuse a config whose ``load_from`` names what is not there and cannot be had.

    Args:
        cfg: The config.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it cannot be downloaded or converted.
    """
    if cfg.get('load_from'):
        check_source(cfg.load_from, 'load_from')


def drop_unused(cfg: Config, needed: str) -> None:
    """Take away what a config has switched off in part, which the Runner would refuse.

    A config without validation, or a test by a training config, sets ``val_dataloader=None`` and
    the like, and need not do so with each section that belongs to it.

    Args:
        cfg: The config, changed in place.
        needed: What the tool runs: ``'train'`` or ``'test'``.

    Raises:
        ValueError: If a section is lacking of what is to be run.
    """
    for split, names in SECTIONS.items():
        absent = [name for name in names if cfg.get(name) is None]
        forgotten = [name for name in absent if name not in cfg and len(absent) < len(names)]
        if absent and split == needed:
            raise ValueError(f'the config has no {" and no ".join(absent)}')
        if forgotten and split == 'val' and needed == 'train' and forgotten == absent:
            raise ValueError(
                f'the config has a validation without {" and ".join(forgotten)}; add it, or set '
                'val_dataloader=None for a training without validation'
            )
        if absent:
            for name in names:
                cfg.pop(name, None)


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


def require_port(parser: argparse.ArgumentParser, host: str, port: int) -> None:
    """Leave with the parser's usage message unless a server can listen at an address.

    Args:
        parser: Parser that reports the error.
        host: Address of this machine.
        port: The port.
    """
    if not 0 < port < 2**16:
        parser.error(f'--port takes a number from 1 to 65535, got {port}')
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((host, port))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, 'strerror', None) or str(error)
        parser.error(
            f'cannot listen on {host}, port {port} ({reason}); give another --port or --host'
        )


def check_output(parser: argparse.ArgumentParser, path: str | Path, flag: str = '--out') -> None:
    """Leave with the parser's usage message if a file could not be written in the end.

    Args:
        parser: Parser that reports the error.
        path: The file; its folder is made if need be.
        flag: What names it on the command line.
    """
    try:
        check_writable_file(path, flag)
    except PreflightError as error:
        parser.error(str(error))


def find_device(parser: argparse.ArgumentParser, device: str | None) -> str | None:
    """Check ``--device``, or leave with the parser's usage message.

    Args:
        parser: Parser that reports the error.
        device: What was given: a name of torch's, or the number of an accelerator; ``None`` if
            nothing was.

    Returns:
        Name of a device that is there.
    """
    if device is None:
        return None
    kind = get_device()
    if device.isdigit():
        if kind == 'cpu':
            parser.error(
                f'--device {device} is the number of an accelerator, and this machine has none; '
                'use --device cpu'
            )
        device = f'{kind}:{device}'
    try:
        torch.empty(0, device=torch.device(device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:MAX_REASON]
        there = 'cpu' if kind == 'cpu' else f'cpu or {kind}'
        parser.error(f'--device {device} cannot be used here ({reason}); use {there}')
    return device


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

    DistributedDataParallel keeps gloo's threads alive even when the group is closed, and now and
    then one of them aborts a process while its interpreter is taken down ("terminate called without
    an active exception"), so that a job fails that has done its work. A process of a gloo job
    therefore ends here, behind what is registered to run at exit. A job that has failed must not
    come here: its ranks cannot wait for each other.

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
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if status:
        sys.exit(status)
