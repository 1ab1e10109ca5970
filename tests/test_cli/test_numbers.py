"""Numbers of command lines have limits, and other files of the tools are checked first."""

import argparse
import json

import pytest
from PIL import Image

from pgseg_mm.cli.numbers import number_from
from tool_runs import refusal, run_tool

CONVERTERS = 'tools/dataset_converters'


@pytest.mark.parametrize(
    ('text', 'limits', 'said'),
    [
        ('0', dict(lowest=1), "a whole number of at least 1, got '0'"),
        ('-2', dict(lowest=0), "at least 0, got '-2'"),
        ('1.5', dict(lowest=1), "a whole number of at least 1, got '1.5'"),
        ('nan', dict(lowest=0, highest=1, kind=float), "a number from 0 to 1, got 'nan'"),
        ('1.1', dict(lowest=0, highest=1, kind=float), 'a number from 0 to 1'),
        ('9' * 5000, dict(lowest=0), 'expected a whole number'),
    ],
)
def test_numbers_out_of_their_limits(text, limits, said):
    with pytest.raises(argparse.ArgumentTypeError, match=said) as caught:
        number_from(**limits)(text)
    assert len(str(caught.value)) < 200


def test_numbers_within():
    assert number_from(1)('3') == 3
    assert number_from(0, 1, float)('0.25') == 0.25


@pytest.mark.parametrize(
    ('tool', 'arguments'),
    [
        (f'{CONVERTERS}/pairs_to_shards.py', ['a.tsv', 'out', '--shards', 0]),
        (f'{CONVERTERS}/pairs_to_shards.py', ['a.tsv', 'out', '--shards', 2, '--max-pixels', -3]),
        (f'{CONVERTERS}/verify_shards.py', ['a.tar', '--jobs', 0]),
        (f'{CONVERTERS}/verify_shards.py', ['a.tar', '--limit', -1]),
        (f'{CONVERTERS}/lvis.py', ['a', '--workers', 0]),
        ('tools/analysis_tools/browse_dataset.py', ['a.py', '--number', -3]),
        ('demo/image_demo.py', ['a.png', 'a.py', 'a.pth', '--batch-size', 0]),
        ('demo/image_demo.py', ['a.png', 'a.py', 'a.pth', '--threshold', 7]),
    ],
)
def test_tools_refuse_such_numbers(monkeypatch, capsys, tool, arguments):
    assert 'expected a' in refusal(monkeypatch, capsys, tool, *arguments)


def test_shards_without_a_pair_are_taken_away(tmp_path, monkeypatch):
    for i in range(4):
        Image.new('RGB', (8, 8)).save(tmp_path / f'{i}.png')
    rows = ''.join(json.dumps({'image': f'{i}.png', 'caption': 'a dog'}) + '\n' for i in range(4))
    (tmp_path / 'pairs.jsonl').write_text(rows)
    command = (
        f'{CONVERTERS}/pairs_to_shards.py',
        *(tmp_path / 'pairs.jsonl', tmp_path / 'out', '--shards', 2, '--image-root', tmp_path),
    )
    with pytest.raises(SystemExit, match='no pair could be packed'):
        run_tool(monkeypatch, *command, '--max-pixels', 9)
    assert not list((tmp_path / 'out').iterdir())
    run_tool(monkeypatch, *command)
    with pytest.raises(SystemExit, match=r'out is a folder; name the shards in it, such as .*\*'):
        run_tool(monkeypatch, f'{CONVERTERS}/verify_shards.py', tmp_path / 'out')
    absent = tmp_path / 'pairs.jsonl' / 'report.json'
    with pytest.raises(SystemExit, match=r'--json .*cannot be written to'):
        run_tool(monkeypatch, f'{CONVERTERS}/verify_shards.py', 'x.tar', '--json', absent)


def test_models_that_cannot_be_counted(monkeypatch, capsys):
    tool, config = 'tools/analysis_tools/get_flops.py', 'pgseg_tiny-p8_emoji-scenes-64x64.py'
    config = f'configs/pgseg/{config}'
    said = refusal(monkeypatch, capsys, tool, config, '--cfg-options', 'model.backbone.typo=1')
    assert 'the model cannot be built: TypeError' in said
    said = refusal(monkeypatch, capsys, tool, config, '--shape', 10**8)
    assert '--shape 100000000 100000000 cannot be counted' in said
