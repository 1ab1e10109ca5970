"""``pgseg_mm.utils`` is the old name of ``pgseg_mm.text``."""

import importlib
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


def test_safe_loading_is_found_by_the_name_that_pages_had():
    old = importlib.import_module('pgseg_mm.utils.training_checkpoints')
    new = importlib.import_module('pgseg_mm.serialization.runner_checkpoints')
    assert old.load_checkpoints_safely is new.load_checkpoints_safely
