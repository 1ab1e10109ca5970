"""The benchmark of training-free baselines, at a small size."""

import json

import pytest

from benchmark_runs import run_benchmark
from tiny_open_clip import CLIP, VISION


@pytest.fixture
def tower(tmp_path) -> str:
    """A tiny tower that other processes find, too."""
    config = {'embed_dim': 24, 'vision_cfg': VISION, 'text_cfg': CLIP, 'quick_gelu': True}
    (tmp_path / 'open_clip_config.json').write_text(json.dumps({'model_cfg': config}))
    return f'local-dir:{tmp_path}'


def test_measures_methods_rules_and_memory(tower, tmp_path, monkeypatch, capsys):
    raw, page = tmp_path / 'raw.json', tmp_path / 'page.md'
    arguments = ['--tower', tower, '--size', 224, 340, '--num-classes', 5, '--rounds', 2]
    arguments += ['--memory-size', 300, 400, '--memory-classes', 20, '--device', 'cpu']
    run_benchmark(monkeypatch, 'dense_baselines', *arguments, '--json', raw, '--markdown', page)
    result = json.loads(raw.read_text())
    assert [row['method'] for row in result['methods']] == [
        'clip', 'maskclip', 'sclip', 'clearclip', 'naclip',
    ]  # fmt: skip
    for row in result['methods']:
        assert len(row['encoder_seconds']) == len(row['predict_seconds']) == 2
        assert min(row['encoder_seconds']) > 0 and row['times_encoder']['median'] > 0
    names = [row['name'] for row in result['rules']]
    assert 'decision with threshold' in names and 'prototypes in place of patches' in names
    assert all(min(row['seconds']) > 0 for row in result['rules'])
    assert [row['num_classes'] for row in result['memory']] == [20, 20, 16]
    assert all(row['peak_mib'] >= row['before_mib'] > 0 for row in result['memory'])
    text = page.read_text()
    assert text in capsys.readouterr().out
    # 5 classes, 10 rounds, 16 neighbours, 2 operations, 224 x 340 pixels
    assert '0.1 GFLOP, as 800 weighted sums of two maps of 76160 pixels' in text
    assert '| 224 px' not in text and text.count('\n| ') >= 5 + 6 + 3
