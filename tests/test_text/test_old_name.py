"""``pgseg_mm.utils`` is the old name of ``pgseg_mm.text``."""

import importlib
import subprocess
import sys

import pytest

from pgseg_mm import text

NAMES = {'PROMPT_TEMPLATES', 'Vocabulary', 'get_templates', 'tokenize'}


@pytest.fixture
def utils(monkeypatch):
    """The old module, imported as for the first time."""
    monkeypatch.delitem(sys.modules, 'pgseg_mm.utils', raising=False)
    with pytest.warns(DeprecationWarning, match='pgseg_mm.text') as warned:
        module = importlib.import_module('pgseg_mm.utils')
    assert len(warned) == 1
    return module


def test_old_name_warns_and_hands_on_the_four_names(utils):
    assert set(utils.__all__) == set(text.__all__) == NAMES
    assert all(getattr(utils, name) is getattr(text, name) for name in NAMES)


def test_warning_points_at_the_import_and_the_package_itself_gives_none(tmp_path):
    script = tmp_path / 'mine.py'
    script.write_text('import pgseg_mm.apis\n\nfrom pgseg_mm.utils import Vocabulary\n')
    command = [sys.executable, '-W', 'default::DeprecationWarning', script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = [line for line in done.stderr.splitlines() if 'pgseg_mm.utils' in line]
    assert told[0].startswith(f'{script}:3: DeprecationWarning')
    assert sum('DeprecationWarning' in line for line in told) == 1


def test_safe_loading_is_found_by_the_name_that_pages_had():
    old = importlib.import_module('pgseg_mm.utils.training_checkpoints')
    new = importlib.import_module('pgseg_mm.serialization.runner_checkpoints')
    assert old.load_checkpoints_safely is new.load_checkpoints_safely
