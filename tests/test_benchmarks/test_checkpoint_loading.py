"""The benchmark of reading checkpoints, at a small size."""

import json
from pathlib import Path

import pytest

from prepared_processes import run_python

ROOT = Path(__file__).resolve().parents[2]


def test_rows_and_ratios(tmp_path):
    raw, page = tmp_path / 'raw.json', tmp_path / 'page.md'
    files = ['--json', raw, '--markdown', page]
    command = ['-m', 'benchmarks.checkpoint_loading', '--mib', '8', '--rounds', '3']
    done = run_python([*command, *files], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = json.loads(raw.read_text())['rows']
    assert [row['content'] for row in rows] == 3 * ['tensors'] + 2 * ['and history']
    ours, theirs = rows[0]['seconds'], rows[1]['seconds']
    expected = sorted(a / b for a, b in zip(ours, theirs, strict=True))[1]
    assert rows[1]['ours']['median'] == pytest.approx(expected)
    assert 5 < rows[0]['mib'] < 12
    assert '| tensors |' in page.read_text()
