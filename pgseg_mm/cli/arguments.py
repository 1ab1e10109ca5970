"""Arguments that the scripts have in common, and what is refused of them."""

from __future__ import annotations

import argparse
import io
import os
import socket
import sys
from pathlib import Path

import torch
from mmengine.device import get_device

from pgseg_mm.errors import PreflightError
from pgseg_mm.messages import shown

from .config_files import SettingsAction
from .folders import check_writable_file

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
    if not os.path.isfile(path):  # also where the name is too long to be one
        parser.error(f'{name} file not found: {shown(path)}')


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


def print_any_text() -> None:
    """Have letters that the terminal cannot print be escaped, and not end the program."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')
