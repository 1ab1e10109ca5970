"""The benchmark of inference at a tiny size: what it reports, not how fast anything is."""

import json
import sys

import pytest

from benchmark_runs import run_benchmark, write_small_config

SIZES = ['--size', '32', '48', '--output-size', '40', '50', '--num-classes', '9', '--threads', '1']


@pytest.fixture
def config(tmp_path):
    return write_small_config(tmp_path / 'small.py')


def test_rows_ratios_and_memory(config, tmp_path, monkeypatch):
    out, table = tmp_path / 'new' / 'out.json', tmp_path / 'table.md'
    options = ['--memory-size', 64, 64, '--repeat', 3, '--json', out, '--markdown', table]
    run_benchmark(monkeypatch, 'inference', config, *SIZES, *options)
    result = json.loads(out.read_text())
    models = ['small']
    if 'transformers' in result['versions']:
        models.append('GroupViT of transformers')
    rows = {(row['model'], row['task'], str(row['output_size'])): row for row in result['times']}
    assert len(rows) == (7 if len(models) == 2 else 4)
    for model in models:
        encoder = rows[model, 'encoder, a window at a time', 'None']
        assert encoder['times_encoder'] == {'median': 1, 'low': 1, 'high': 1}
        for size in ('None', '[40, 50]'):
            row = rows[model, 'predict', size]
            pairs = zip(row['seconds'], encoder['seconds'], strict=True)
            ratios = sorted(mine / floor for mine, floor in pairs)
            assert len(ratios) == 3 and ratios[0] > 0
            assert row['times_encoder']['median'] == pytest.approx(ratios[1], rel=0.01)
            assert row['images_per_second'] == pytest.approx(1000 / row['milliseconds'])
            assert (row['times_peer'] is None) == (len(models) == 1)
    memory = [(row['model'], row['size']) for row in result['memory']]
    if sys.platform == 'linux':
        assert memory == [(model, size) for model in models for size in ([32, 48], [64, 64])]
    assert all(row['peak_mib'] >= row['before_mib'] > 100 for row in result['memory'])
    assert '| small | predict | 40 x 50 |' in table.read_text()


def test_without_transformers_and_with_more_models(config, tmp_path, monkeypatch, capsys):
    other = write_small_config(config.with_name('other.py'), prototypes=False)
    monkeypatch.setitem(sys.modules, 'transformers.models.groupvit', None)
    options = ['--also', other, *SIZES, '--repeat', 2, '--no-memory']
    run_benchmark(monkeypatch, 'inference', config, *options)
    shown = capsys.readouterr()
    assert 'transformers is not installed: its GroupViT is left out' in shown.err
    assert '| small | predict | 32 x 48 |' in shown.out
    assert '| other | predict | 32 x 48 |' in shown.out
    assert 'GroupViT of transformers |' not in shown.out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [(['absent.py'], 'config file not found'), (['--repeat', '1'], 'must be at least 2')],
)
def test_refuses_what_cannot_be_measured(config, monkeypatch, capsys, arguments, message):
    arguments = arguments if arguments[0] == 'absent.py' else [config, *arguments]
    with pytest.raises(SystemExit):
        run_benchmark(monkeypatch, 'inference', *arguments)
    assert message in capsys.readouterr().err
