import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pgseg_mm

ROOT = Path(__file__).parents[2]
REQUIREMENT_FILES = sorted((ROOT / 'requirements').glob('*.txt'))


def requirements_in(path):
    lines = (re.sub(r'(^|\s)#.*', '', line).strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def describe(*fields):
    """Ask setup.py for fields of the distribution, as pip would."""
    run = subprocess.run(
        [sys.executable, 'setup.py', '--quiet', *(f'--{field}' for field in fields)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.split()


def test_setup_gives_name_and_version_of_the_package():
    assert describe('name', 'version') == ['pgseg-mm', pgseg_mm.__version__]


def test_installed_version_is_that_of_the_package():
    assert metadata.version('pgseg-mm') == pgseg_mm.__version__


def test_neither_stack_is_required_outright():
    outright = [line for line in metadata.requires('pgseg-mm') if 'extra ==' not in line]
    assert any(line.startswith('torch>=') for line in outright)
    assert not any(Requirement(line).name.removeprefix('onedl-')[:2] == 'mm' for line in outright)


@pytest.mark.parametrize('path', REQUIREMENT_FILES, ids=lambda path: path.stem)
def test_requirement_file_parses(path):
    assert requirements_in(path)


@pytest.mark.parametrize(
    ('constraints', 'stack'), [('constraints', 'onedl'), ('openmmlab_constraints', 'openmmlab')]
)
def test_constraints_pin_all_that_make_installs_within_its_bounds(constraints, stack):
    pins = {
        canonicalize_name(requirement.name): requirement.specifier
        for requirement in requirements_in(ROOT / 'requirements' / f'{constraints}.txt')
    }
    assert stack == 'onedl' or str(pins.pop('setuptools')) == '<81'
    for name in ('runtime', stack, 'data', 'nouns', 'onnx', 'web', 'tests'):
        for requirement in requirements_in(ROOT / 'requirements' / f'{name}.txt'):
            if requirement.name == 'setuptools':
                continue
            (pin,) = pins[canonicalize_name(requirement.name)]
            assert pin.operator == '=='
            assert requirement.specifier.contains(pin.version), requirement


@pytest.mark.skipif(shutil.which('make') is None, reason='make is not installed')
@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['help'], 'make demo'),
        (['-n', 'test', 'ARGS=-k launch'], '-m pytest -q -k launch'),
        (['help'], 'make test-openmmlab'),
        (
            ['-n', 'test-openmmlab', 'ARGS=-k launch'],
            '-openmmlab/bin/python -m pytest -q -k launch',
        ),
        (['-n', 'lint'], '-m mypy pgseg_mm'),
        (['-n', 'demo', 'ARGS=--help'], 'demo/run_demo.py --help'),
        (['-n', 'clean'], 'rm -rf'),
    ],
)
def test_makefile(arguments, expected):
    run = subprocess.run(['make', *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    assert expected in run.stdout


def test_scripts_can_be_executed():
    for script in (
        '.ci/run',
        *(f'tools/{kind}_{what}.sh' for kind in ('dist', 'slurm') for what in ('train', 'test')),
    ):
        assert os.access(ROOT / script, os.X_OK), script
