"""The scripts in tools/ and demo/, run in this process."""

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import mmengine.registry
import mmseg.registry
import pytest
from mmengine.registry import Registry

ROOT = Path(__file__).parents[2]
MAX_LENGTH = 600
"""Characters of a message that a user is shown."""


def run_tool(monkeypatch, tool: str, *arguments: object) -> None:
    """Run a script.

    Args:
        monkeypatch: pytest's.
        tool: Path below the root of the repository, such as ``'tools/train.py'``.
        arguments: Those of the command line.
    """
    path = ROOT / tool
    with monkeypatch.context() as patch:
        patch.setattr(sys, 'argv', [path.name, *map(str, arguments)])
        patch.setattr(sys, 'path', [str(path.parent), *sys.path])
        patch.setenv('LOCAL_RANK', '0')
        runpy.run_path(str(path), run_name='__main__')


def refusal(monkeypatch, capsys, tool: str, *arguments: object, status: int = 2) -> str:
    """What a script says when it refuses its arguments, without the usage message.

    It must leave with a status, and with one short sentence in place of a traceback.
    """
    with pytest.raises(SystemExit) as leaving:
        run_tool(monkeypatch, tool, *arguments)
    assert leaving.value.code == status, leaving.value.code
    shown = capsys.readouterr().err
    assert 'Traceback' not in shown, shown
    message = shown.rpartition(f'{Path(tool).name}: error: ')[2]
    assert message and len(message) <= MAX_LENGTH
    return message


def write_pure_python(settings: dict, path: Path) -> Path:
    """Write a config in mmengine's pure Python style: types are imported classes, not names.

    Args:
        settings: The config.
        path: File to write.
    """
    known = [*vars(mmseg.registry).values(), *vars(mmengine.registry).values()]
    registries = [part for part in known if isinstance(part, Registry)]
    settings = {key: value for key, value in settings.items() if key != 'custom_imports'}
    text = ''.join(f'{key} = {value!r}\n' for key, value in settings.items())
    lines = ['from mmengine.config import read_base']
    for name in sorted(set(re.findall(r"'type': '([\w.]+)'", text))):
        kinds: list[Any] = [part for registry in registries if (part := registry.get(name))]
        kind, short = kinds[0], name.rpartition('.')[2]  # a class may be known by another name
        lines.append(f'from {kind.__module__} import {kind.__name__} as {short}')
    text = re.sub(r"'type': '(?:\w+\.)?(\w+)'", r"'type': \1", text)
    path.write_text('\n'.join([*lines, text]))
    return path
