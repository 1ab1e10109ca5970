"""The benchmark of micro-batches, at a small size."""

import json
from pathlib import Path

from benchmark_runs import run_benchmark

ROOT = Path(__file__).parents[2]


def test_rows_and_deviations(tmp_path, monkeypatch, capsys):
    out = tmp_path / 'raw.json'
    config = ROOT / 'configs/pgseg/pgseg_tiny-p8_emoji-scenes-64x64.py'
    options = ['--batch', 6, '--sizes', 4, '--rounds', 1, '--json', out]
    run_benchmark(monkeypatch, 'micro_batches', config, *options)
    shown = capsys.readouterr().out
    rows = json.loads(out.read_text())['rows']
    assert list(rows) == ['whole', 'micro-batches of 4', 'whole, checkpointed blocks']
    for name, row in rows.items():
        assert name in shown
        assert len(row['seconds']) == 1 and row['peak_mib'] > 100
        assert row['gradient_deviation'] < 1e-3
        assert abs(row['loss'] - rows['whole']['loss']) < 1e-4
    assert rows['whole']['gradient_deviation'] == 0
    assert rows['micro-batches of 4']['gradient_deviation'] > 0
