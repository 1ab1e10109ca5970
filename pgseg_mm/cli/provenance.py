"""Where results come from: machine, versions and command."""

import contextlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ('mmengine', 'onedl-mmengine', 'mmsegmentation', 'onedl-mmsegmentation')


def describe_machine() -> dict[str, Any]:
    """What the numbers were made on."""
    return {
        'processor': _processor(),
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'accelerator': torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        'python': platform.python_version(),
        'torch': torch.__version__,
    }


def _processor() -> str:
    info = Path('/proc/cpuinfo')
    if info.is_file():
        for line in info.read_text(encoding='utf-8').splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def versions(*more: str) -> dict[str, str]:
    """Of the libraries that take part; those that are not installed are left out."""
    found = {}
    for name in (*LIBRARIES, *more):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def describe(result: dict[str, Any]) -> list[str]:
    """Lines on machine, versions and command, for the end of a document."""
    machine = result['machine']
    accelerator = f', {machine["accelerator"]}' if machine['accelerator'] else ''
    libraries = ''.join(f', {name} {number}' for name, number in result['versions'].items())
    return [
        f'- Machine: {machine["processor"]}, {machine["cores"]} cores{accelerator}',
        f'- Versions: Python {machine["python"]}, torch {machine["torch"]}{libraries}',
        f'- Command: `{result["command"]}`',
    ]
