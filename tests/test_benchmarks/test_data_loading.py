import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from prepared_processes import run_python

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from benchmarks import data_loading  # noqa: E402


def test_it_measures_all_ways_of_loading_and_writes_a_table(tmp_path):
    args = ['--samples', '24', '--shards', '2', '--size', '64', '48', '--batch-size', '8']
    files = ['--json', str(tmp_path / 'a.json'), '--markdown', str(tmp_path / 'a.md')]
    command = ['-m', 'benchmarks.data_loading', *args, '--rounds', '1', *files]
    result = run_python(command, cwd=ROOT)

    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / 'a.json').read_text())
    plain = found['images_per_core_second']['webdataset, Pillow and torchvision'][0]
    ours = found['images_per_core_second']['WebImageTextDataset'][0]
    assert found['ratios']['WebImageTextDataset'] == [ours / plain]
    assert 'DecodeImage' in found['milliseconds']
    table = (tmp_path / 'a.md').read_text()
    assert f'| WebImageTextDataset | {ours:.0f} | {ours / plain:.2f} ' in table


def test_pairs_are_used_again_if_they_are_of_the_same_settings(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(data_loading, 'make_pairs', lambda *settings: made.append(settings))

    def ensure(**settings):
        known = {'samples': 5, 'shards': 2, 'size': (64, 48)}
        data_loading.ensure_pairs(Namespace(**known | settings), tmp_path)

    ensure()
    ensure()  # what was broken off
    (tmp_path / 'pairs.jsonl').touch()
    ensure()
    assert len(made) == 2
    with pytest.raises(SystemExit, match="holds pairs of .*'samples': 5.*name another folder"):
        ensure(samples=6)
