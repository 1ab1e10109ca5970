import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmpretrain.utils import dependency
from packaging.requirements import Requirement

from pgseg_mm.dependencies import (
    REQUIREMENTS,
    check_dependencies,
    installed_version,
)
from pgseg_mm.integration import keep_mmpretrain_importable

ROOT = Path(__file__).parents[2]
GOOD = {
    'torch': '2.14.1+cpu',
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmsegmentation': '1.4.2',
    'onedl-mmpretrain': '1.3.6',
    'open_clip_torch': '3.3.0',
    'ftfy': '6.3.1',
    'regex': '2026.11.15',
    'scipy': '1.17.1',
}
OPENMMLAB = {
    'mmengine': '0.10.7',
    'mmcv': '2.1.0',
    'mmsegmentation': '1.2.2',
    'mmpretrain': '1.2.0',
}
NEITHER = {name: version for name, version in GOOD.items() if not name.startswith('onedl-')}


def check(versions, absent=()):
    check_dependencies(lambda module: module not in absent, versions.get)


def complaint(versions, absent=()):
    with pytest.raises(ImportError) as caught:
        check(versions, absent)
    return str(caught.value)


@pytest.mark.parametrize('stack', [GOOD, NEITHER | OPENMMLAB])
def test_either_stack_is_enough(stack):
    check(stack)


def test_this_environment_is_enough():
    check_dependencies()


def test_source_checkout_without_metadata_is_taken_as_it_is():
    check(NEITHER)


def test_missing_module_is_named_with_the_command_that_installs_it():
    versions = {name: version for name, version in GOOD.items() if name != 'onedl-mmcv'}
    message = complaint(versions, absent=['mmcv'])
    assert 'mmcv is not installed (needed: onedl-mmcv>=2.3.6 or mmcv>=2.1.0)' in message
    assert message.endswith('run: pip install "pgseg-mm[onedl]"')


def test_old_module_is_named_with_what_was_found():
    message = complaint(GOOD | {'torch': '1.13.1'})
    assert 'torch is too old (found: torch 1.13.1; needed: torch>=2.5)' in message


def test_versions_are_compared_as_numbers():
    check(GOOD | {'onedl-mmcv': '2.10.0'})
    assert 'mmengine is too old' in complaint(GOOD | {'onedl-mmengine': '0.10.9'})


def test_all_problems_stand_in_one_sentence():
    versions = NEITHER | {'scipy': '1.2.0'}
    message = complaint(versions, absent=['mmengine', 'mmseg'])
    for module in ('mmengine is not', 'mmseg is not', 'scipy is too old'):
        assert module in message
    assert '\n' not in message
    assert message.count('pip install') == 1


def test_advice_keeps_to_the_stack_that_is_there():
    old = complaint(NEITHER | OPENMMLAB | {'mmcv': '2.0.1'})
    assert 'pip install "pgseg-mm[openmmlab]"' in old


def test_unknown_distribution_has_no_version():
    assert installed_version('no-such-distribution-of-pgseg') is None


def test_table_agrees_with_the_requirement_files():
    least = {
        name: version
        for requirement in REQUIREMENTS
        for name, version in requirement.distributions.items()
    }
    written = {}
    for name in ('runtime', 'onedl', 'openmmlab'):
        for line in (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines():
            if text := line.split('#')[0].strip():
                requirement = Requirement(text)
                bounds = [s.version for s in requirement.specifier if s.operator == '>=']
                written[requirement.name] = bounds[0] if bounds else None
    assert {name: written[name] for name in least} == least


def test_import_without_mmengine_gives_the_sentence_and_no_other_error():
    """A finder that hides the whole stack stands in for a machine where it is not installed."""
    program = """
import importlib.util, sys
names = {'mmengine', 'mmcv', 'mmseg', 'mmpretrain', 'torch'}
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in names else find_spec(name, *rest)
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in names:
            raise ModuleNotFoundError(f'hidden: {name}')
sys.meta_path.insert(0, Hide())
import pgseg_mm
"""
    run = subprocess.run(
        [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    last_line = run.stderr.strip().splitlines()[-1]
    assert re.match(r'ImportError: pgseg_mm cannot be imported because torch is not', last_line)
    assert 'hidden' not in run.stderr


@pytest.mark.parametrize(
    ('transformers', 'kept'), [(None, True), ('4.57.1', True), ('5.0.0', False)]
)
def test_multimodal_models_of_mmpretrain_are_left_out_where_they_cannot_be_imported(
    monkeypatch, transformers, kept
):
    monkeypatch.setattr('mmpretrain.utils.dependency.WITH_MULTIMODAL', True)
    keep_mmpretrain_importable({'transformers': transformers}.get)
    assert dependency.WITH_MULTIMODAL is kept
