import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from pgseg_mm.datasets.shards import read_shard
from shard_zoo import write_damaged_shards, write_shards

TOOLS = Path(__file__).resolve().parents[2] / 'tools' / 'dataset_converters'


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a tool within this process, which spares the time of the imports."""

    def run_tool(tool, *args):
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
        try:
            runpy.run_path(str(TOOLS / tool), run_name='__main__')
        except SystemExit as stop:
            return SimpleNamespace(returncode=1, stderr=str(stop.code), **output(capsys))
        return SimpleNamespace(returncode=0, stderr='', **output(capsys))

    return run_tool


def output(capsys):
    return dict(stdout=capsys.readouterr().out)


def test_verify_counts_what_is_broken_and_describes_the_rest(tmp_path):
    pattern, good, expected = write_damaged_shards(tmp_path)
    report = tmp_path / 'report.json'
    command = [sys.executable, TOOLS / 'verify_shards.py', pattern, '--json', report, '--jobs', '2']
    result = subprocess.run(command, capture_output=True, text=True)

    assert result.returncode == 0, result.stderr
    found = json.loads(report.read_text())
    assert found['broken'] == expected
    assert found['usable'] == len(good)
    # Nine members and the shard that breaks off, whose last sample never came.
    assert found['samples'] == 179
    assert found['broken_share'] == pytest.approx(10 / 180)
    assert found['image_width'] == {
        key: 40 for key in ('min', '5%', 'median', 'mean', '95%', 'max')
    }
    assert found['caption_words']['mean'] == 2
    assert '00003.tar cannot be read on' in result.stdout


def test_verify_fails_above_the_limit(run, tmp_path):
    pattern, *_ = write_damaged_shards(tmp_path)
    result = run('verify_shards.py', pattern, '--limit', 0.05)

    assert result.returncode == 1
    assert '5.56 % of the 179 samples cannot be used; --limit accepts 5 %' in result.stderr


def test_verify_needs_shards(run, tmp_path):
    result = run('verify_shards.py', f'{tmp_path}/*.tar')

    assert result.returncode == 1
    assert 'No shard matches' in result.stderr


def make_pairs(folder, number):
    rows = []
    for n in range(number):
        Image.new('RGB', (8 + n, 6), (n, 0, 0)).save(folder / f'{n}.png')
        rows.append(dict(image=f'{n}.png', caption=f'number {n}'))
    (folder / '3.png').write_bytes(b'no image')
    rows.append(dict(image='gone.png', caption='gone'))
    rows.append(dict(image='0.png', caption=''))
    (folder / 'pairs.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return folder / 'pairs.jsonl'


def test_pairs_are_packed_unchanged_and_evenly(run, tmp_path):
    pairs = make_pairs(tmp_path, 11)
    outs = [tmp_path / name for name in ('one', 'two')]
    for out in outs:
        result = run('pairs_to_shards.py', pairs, out, '--shards', 3, '--image-root', tmp_path)
        assert result.returncode == 0, result.stderr

    message, _, left_out = result.stdout.strip().partition('left out: ')
    assert message.endswith('.tar: 10 pairs; ')
    assert sorted(left_out.split(', ')) == [
        '1 broken image',
        '1 empty caption',
        '1 missing image',
    ]
    samples = {}
    for shard in sorted(outs[0].glob('*.tar')):
        assert shard.read_bytes() == (outs[1] / shard.name).read_bytes()
        read = list(read_shard(str(shard)))
        stats = json.loads(shard.with_name(f'{shard.stem}_stats.json').read_text())
        assert stats == dict(count=4, successes=len(read))
        for sample in read:
            samples[sample.members['txt'].decode()] = sample
    assert set(samples) == {f'number {n}' for n in range(11) if n != 3}
    image, caption = samples['number 5'].pair('caption')
    assert image == (tmp_path / '5.png').read_bytes()
    assert json.loads(samples['number 5'].members['json'])['caption'] == caption == 'number 5'

    again = run('pairs_to_shards.py', pairs, outs[0], '--shards', 3, '--image-root', tmp_path)
    assert again.returncode == 1
    assert 'holds shards already' in again.stderr


def test_packed_shards_are_sound(run, tmp_path):
    pairs = make_pairs(tmp_path, 3)
    run('pairs_to_shards.py', pairs, tmp_path / 'out', '--shards', 2, '--image-root', tmp_path)

    assert run('verify_shards.py', tmp_path / 'out' / '*.tar', '--limit', 0).returncode == 0


def test_more_shards_than_pairs_are_refused(run, tmp_path):
    pairs = make_pairs(tmp_path, 2)
    result = run('pairs_to_shards.py', pairs, tmp_path / 'out', '--shards', 9)

    assert result.returncode == 1
    assert '3 pairs do not fill 9 shards' in result.stderr


def test_sound_shards_pass_without_allowance(run, tmp_path):
    assert run('verify_shards.py', write_shards(tmp_path, 2, 3), '--limit', 0).returncode == 0
