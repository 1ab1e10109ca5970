"""The scripts in tools/ and demo/, run in this process."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
    assert 'Traceback' not in shown
    message = shown.rpartition(f'{Path(tool).name}: error: ')[2]
    assert message and len(message) <= MAX_LENGTH
    return message
