import importlib
import importlib.util
import sys

import pytest

from web_demo_parts import ROOT


@pytest.fixture(scope='module')
def demo():
    """The demo's modules by their names."""
    sys.path.insert(0, str(ROOT / 'demo'))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(ROOT / 'demo'))
