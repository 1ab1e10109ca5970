"""What importing the package does, seen in one interpreter of its own for all questions."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import signal, sys
import torch
if sys.version_info < (3, 11):
    import exceptiongroup  # of other packages; it has a hook of its own

def state():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    own = list(sys.path), handlers, sys.excepthook
    return (*own, torch.get_num_threads(), torch.initial_seed(), torch.get_default_dtype())

before = state()
import pgseg_mm, pgseg_mm.apis, pgseg_mm.checkpoints
after = state()
print('changed:', [pair for pair in zip(before, after) if pair[0] != pair[1]])
from mmpretrain.models import ImageClassifier
print('imported:', ImageClassifier.__name__)
from pgseg_mm.utils import Vocabulary
"""
OLD_NAME = SCRIPT.splitlines().index('from pgseg_mm.utils import Vocabulary') + 1


@pytest.fixture(scope='module')
def script(tmp_path_factory) -> Path:
    script = tmp_path_factory.mktemp('fresh') / 'mine.py'
    script.write_text(SCRIPT)
    return script


@pytest.fixture(scope='module')
def done(script) -> subprocess.CompletedProcess:
    command = [sys.executable, '-W', 'default::DeprecationWarning', script]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_import_leaves_the_process_as_it_is(done):
    assert 'changed: []' in done.stdout.splitlines(), done.stdout + done.stderr[-2000:]


def test_classifiers_of_mmpretrain_can_be_imported(done):
    assert 'imported: ImageClassifier' in done.stdout.splitlines(), done.stderr[-2000:]


def test_old_name_warns_where_it_is_imported_and_the_package_itself_does_not(done, script):
    assert done.returncode == 0, done.stderr[-2000:]
    told = [line for line in done.stderr.splitlines() if 'pgseg_mm.utils' in line]
    assert told[0].startswith(f'{script}:{OLD_NAME}: DeprecationWarning')
    assert sum('DeprecationWarning' in line for line in told) == 1
