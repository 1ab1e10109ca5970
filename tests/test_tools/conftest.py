from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from emoji_runs import FOLDER


@pytest.fixture(scope='module')
def tool():
    """The module that makes emoji scenes."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module('emoji_scenes')
    finally:
        sys.path.remove(str(FOLDER))
