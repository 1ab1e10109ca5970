"""What benchmarks say about where they were run."""

import os
import platform
from pathlib import Path
from typing import Any

import torch


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
