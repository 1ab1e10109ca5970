import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))
from benchmarks import outputs  # noqa: E402


def test_results_and_page_go_where_the_arguments_say(tmp_path, monkeypatch):
    monkeypatch.setattr('sys.argv', ['x', '--rounds', '3'])
    parser = outputs.make_parser('A benchmark.', 'the page')
    files = tmp_path / 'new' / 'a.json', tmp_path / 'a.md'
    args = outputs.parse(parser, ['--json', str(files[0]), '--markdown', str(files[1])])
    result = {**outputs.origin('npr', 'scipy'), 'rows': [1]}
    outputs.write_results(args, result, 'the page')
    assert files[1].read_text() == 'the page'
    written = json.loads(files[0].read_text())
    assert written['command'] == 'python -m benchmarks.npr --rounds 3'
    assert written['machine'].keys() >= {'processor', 'torch'}
    assert 'scipy' in written['versions'] and written['rows'] == [1]


def test_nothing_is_written_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = outputs.parse(outputs.make_parser('A benchmark.', 'the page'), [])
    outputs.write_results(args, {}, 'the page')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('flag', ['--json', '--markdown'])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path, capsys, flag
):
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit):
        outputs.parse(outputs.make_parser('', ''), [flag, str(tmp_path / 'file' / 'a')])
    assert flag in capsys.readouterr().err


def test_a_benchmark_without_a_page_has_no_flag_for_it(capsys):
    with pytest.raises(SystemExit):
        outputs.parse(outputs.make_parser('A benchmark.'), ['--markdown', 'a.md'])
    assert 'unrecognized arguments: --markdown' in capsys.readouterr().err
