import json
import os
import runpy
import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet
import pytest
from mmengine.logging import MMLogger
from PIL import Image

from pgseg_mm.datasets import ImageTextDataset
from pgseg_mm.datasets.pairs import shards
from pgseg_mm.datasets.pairs.shards import read_shard
from pgseg_mm.serialization import atomic_files
from prepared_processes import run_python
from shard_zoo import write_damaged_shards, write_shards

TOOLS = Path(__file__).resolve().parents[2] / 'tools' / 'dataset_converters'


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a tool within this process, which spares the time of the imports."""

    def run_tool(tool, *args):
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
        monkeypatch.setattr(MMLogger, '_instance_dict', OrderedDict())  # as a process has it
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
    command = [TOOLS / 'verify_shards.py', pattern, '--json', report, '--jobs', '2']
    result = run_python(command)

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


def test_images_are_packed_by_what_they_are(run, tmp_path):
    """Files from the web have any name."""
    rows = []
    for name, kind in (
        ('b', 'JPEG'),
        ('c.jpg?size=large', 'PNG'),
        ('d.jpe', 'JPEG'),
        ('e', 'TIFF'),
    ):
        with (tmp_path / name).open('wb') as file:
            Image.new('RGB', (8, 6), (9, 0, 0)).save(file, kind)
        rows.append(dict(image=name, caption=f'in {name}'))
    (tmp_path / 'pairs.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    packed = ('pairs_to_shards.py', tmp_path / 'pairs.jsonl', tmp_path / 'out', '--shards', 1)
    result = run(*packed, '--no-shuffle', '--image-root', tmp_path)
    assert '4 pairs; left out: ' in result.stdout, result.stdout + result.stderr
    members = [set(sample.members) for sample in read_shard(str(tmp_path / 'out' / '00000.tar'))]
    assert members == [{'txt', 'json', kind} for kind in ('jpg', 'png', 'jpg', 'tif')]


def test_shards_name_where_their_images_were(run, tmp_path):
    folder = tmp_path / ('deep' * 30) / ('deeper' * 20)
    folder.mkdir(parents=True)
    Image.new('RGB', (8, 6)).save(folder / 'a.png')
    row = dict(image=str(folder.relative_to(tmp_path) / 'a.png'), caption='a')
    (tmp_path / 'pairs.jsonl').write_text(json.dumps(row))
    packed = ('pairs_to_shards.py', tmp_path / 'pairs.jsonl', tmp_path / 'out', '--shards', 1)
    run(*packed, '--image-root', tmp_path)
    (sample,) = read_shard(str(tmp_path / 'out' / '00000.tar'))
    assert json.loads(sample.members['json'])['path'] == str(folder / 'a.png')


def test_more_shards_than_pairs_are_refused(run, tmp_path):
    pairs = make_pairs(tmp_path, 2)
    result = run('pairs_to_shards.py', pairs, tmp_path / 'out', '--shards', 9)

    assert result.returncode == 1
    assert '3 pairs do not fill 9 shards' in result.stderr


def test_sound_shards_pass_without_allowance(run, tmp_path):
    assert run('verify_shards.py', write_shards(tmp_path, 2, 3), '--limit', 0).returncode == 0


def test_all_formats_are_packed_and_the_rest_is_counted_and_named(run, tmp_path):
    rows = []
    for suffix in ('jpg', 'png', 'webp', 'bmp', 'tif', 'tiff', 'gif', 'JPEG'):
        Image.new('RGB', (8, 6), (9, 0, 0)).save(tmp_path / f'picture.{suffix}')
        rows.append(dict(image=f'picture.{suffix}', caption=suffix))
    (tmp_path / 'picture.png').rename(tmp_path / 'picture.odd')
    rows[1]['image'] = 'picture.odd'
    rows.append(dict(image='/etc/hostname', caption='outside'))
    (tmp_path / 'pairs.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    out = tmp_path / 'out'
    result = run(
        'pairs_to_shards.py', tmp_path / 'pairs.jsonl', out, '--shards', 1, '--image-root', tmp_path
    )

    assert result.returncode == 0, result.stderr
    assert 'tar: 8 pairs; left out: 1 outside data_root' in result.stdout
    pairs = [sample.pair('caption') for sample in read_shard(str(out / '00000.tar'))]
    assert {caption for _, caption in pairs} == {row['caption'] for row in rows[:-1]}
    assert run('verify_shards.py', out / '*.tar', '--limit', 0).returncode == 0


def test_what_was_begun_is_gone_on_with_by_the_same_command_and_no_other(
    run, tmp_path, monkeypatch
):
    pairs = make_pairs(tmp_path, 11)
    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    options = ['--shards', 4, '--image-root', tmp_path]
    expected = run('pairs_to_shards.py', pairs, whole, *options).stdout
    read = ImageTextDataset.read_image_bytes
    reads = []

    def full(self, info):
        reads.append(info)
        if len(reads) == 8:
            raise OSError(28, 'No space left on device')
        return read(self, info)

    monkeypatch.setattr(ImageTextDataset, 'read_image_bytes', full)
    stopped = run('pairs_to_shards.py', pairs, cut, *options)
    assert stopped.returncode == 1
    assert 'No space left on device' in stopped.stderr and 'goes on' in stopped.stderr
    assert not list(cut.glob('.*.tar.*'))
    done = sorted(path.name for path in cut.glob('*.tar'))
    assert 0 < len(done) < 4
    other = run('pairs_to_shards.py', pairs, cut, '--shards', 3, '--image-root', tmp_path)
    assert other.returncode == 1 and 'holds shards already' in other.stderr
    host, running = atomic_files.HOST_NAME, os.getpid()
    (cut / f'.00003.tar.~{host}~999999999~0123abcd.tar').write_bytes(b'half a shard')
    beside = cut / f'.00002.tar.~{host}~{running}~0123abcd.tar'  # of a process that runs
    beside.touch()
    reads.extend([None] * 8)
    result = run('pairs_to_shards.py', pairs, cut, *options)

    assert result.stdout == expected.replace('whole', 'cut')
    files = {path.name: path.read_bytes() for path in whole.iterdir()}
    beside.unlink()
    assert {path.name: path.read_bytes() for path in cut.iterdir()} == files


@pytest.mark.parametrize('change', ['captions', 'a shard'])
def test_what_has_changed_since_is_not_gone_on_with(run, tmp_path, monkeypatch, change):
    pairs = make_pairs(tmp_path, 11)
    out = tmp_path / 'out'
    options = ['--shards', 2, '--image-root', tmp_path]
    with monkeypatch.context() as patch:
        read, reads = ImageTextDataset.read_image_bytes, []

        def cut(self, info):
            reads.append(info)
            if len(reads) > 8:
                raise OSError(28, 'No space left on device')
            return read(self, info)

        patch.setattr(ImageTextDataset, 'read_image_bytes', cut)
        assert run('pairs_to_shards.py', pairs, out, *options).returncode == 1
    assert [path.name for path in out.glob('*.tar')] == ['00000.tar']
    if change == 'captions':
        pairs.write_text(pairs.read_text().replace('number', 'picture'))
        result = run('pairs_to_shards.py', pairs, out, *options)
        assert result.returncode == 1 and 'holds shards already' in result.stderr
    else:
        (out / '00000.tar').unlink()
        assert run('pairs_to_shards.py', pairs, out, *options).returncode == 0
        assert len(list(out.glob('*.tar'))) == 2


def test_images_that_break_off_are_left_out(run, tmp_path):
    rows = []
    for name in ('whole.jpg', 'cut.jpg'):
        Image.effect_noise((64, 64), 90).save(tmp_path / name)
        rows.append(json.dumps(dict(image=name, caption=name)))
    content = (tmp_path / 'cut.jpg').read_bytes()
    (tmp_path / 'cut.jpg').write_bytes(content[: len(content) // 2])
    (tmp_path / 'pairs.jsonl').write_text('\n'.join(rows))
    command = ['pairs_to_shards.py', tmp_path / 'pairs.jsonl']
    options = ['--shards', 1, '--image-root', tmp_path]
    said = run(*command, tmp_path / 'out', *options).stdout
    assert said.endswith('1 pairs; left out: 1 broken image\n')
    assert run('verify_shards.py', tmp_path / 'out' / '*.tar', '--limit', 0).returncode == 0
    said = run(*command, tmp_path / 'headers', *options, '--headers-only').stdout
    assert '2 pairs' in said


def test_a_shard_that_cannot_be_read_does_not_end_a_verification(run, tmp_path, monkeypatch):
    pattern = write_shards(tmp_path / 'shards', shards=2, samples=3)
    opened = shards.open_tar

    def refusing(shard):
        if shard.endswith('00000.tar'):
            raise PermissionError(13, 'Permission denied')
        return opened(shard)

    monkeypatch.setattr(shards, 'open_tar', refusing)
    report = tmp_path / 'report.json'
    result = run('verify_shards.py', pattern, '--json', report, '--limit', 0)
    assert result.returncode == 1 and 'Permission denied' in result.stdout
    assert json.loads(report.read_text())['usable'] == 3


def test_images_in_parquet_are_packed(run, tmp_path):
    Image.new('RGB', (8, 6)).save(tmp_path / 'a.png')
    image = (tmp_path / 'a.png').read_bytes()
    rows = [dict(bytes=image, path='a.PNG'), dict(bytes=image, path=None)]
    table = pyarrow.table(dict(image=rows, caption=['one', 'two']))
    pyarrow.parquet.write_table(table, tmp_path / 'a.parquet')
    result = run('pairs_to_shards.py', tmp_path / 'a.parquet', tmp_path / 'out', '--shards', 1)

    assert result.returncode == 0, result.stderr
    samples = list(read_shard(str(tmp_path / 'out' / '00000.tar')))
    assert [sample.members['png'] for sample in samples] == [image, image]
