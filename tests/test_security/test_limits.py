"""Every limit is in one place, and what a program sets there holds."""

import ast
from pathlib import Path

import pytest

from pgseg_mm import limits

ROOT = Path(__file__).parents[2]
SOURCES = [
    path for folder in ('pgseg_mm', 'tools', 'demo') for path in (ROOT / folder).rglob('*.py')
]


def test_no_module_keeps_a_limit_as_it_was_at_its_import():
    assert len(SOURCES) > 100
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[-1] == 'limits':
                pytest.fail(f'{path}, line {node.lineno}: from pgseg_mm import limits')


def test_every_limit_says_what_it_is_and_is_used():
    body = ast.parse(Path(limits.__file__).read_text(encoding='utf-8')).body
    code = '\n'.join(path.read_text(encoding='utf-8') for path in SOURCES)
    for at, node in enumerate(body):
        if isinstance(node, ast.Assign):
            name = node.targets[0].id
            assert isinstance(body[at + 1].value.value, str), name
            assert f'limits.{name}' in code, name
