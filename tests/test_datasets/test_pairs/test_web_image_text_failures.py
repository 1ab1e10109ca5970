"""Shards that are broken, and systems that fail."""

import sys
from pathlib import Path

import pytest

from pgseg_mm.datasets import WebImageTextDataset
from pgseg_mm.datasets.pairs.shards import RawSample, read_shard
from pgseg_mm.datasets.sampling.sample_key import SampleKey
from pgseg_mm.files.reading import FileAccessError
from shard_zoo import damage, jpeg, sound, write_shards, write_tar
from web_pairs import make, read, records


@pytest.mark.parametrize('pattern', ['{00000..00004}.tar', '*.tgz', 'nothing.tar'])
def test_a_pattern_that_matches_nothing_is_refused(tmp_path, pattern):
    write_shards(tmp_path, 4, 1)
    with pytest.raises(FileNotFoundError, match='No shard matches'):
        make(f'{tmp_path}/{pattern}')


def test_a_pipe_that_fails_is_a_broken_shard_and_named_if_nothing_else_is_there(tmp_path):
    path = write_shards(tmp_path, 1, 9)
    half = make(f'pipe:cat {path}; exit 3')
    first, *_, last = records(read(half, 12))

    assert last.skipped == {} and last.state['sources']['zoo'][0] == 1
    assert (
        sum(r.skipped.get('zoo', {}).get('broken shard', 0) for r in records(read(half, 12))) == 1
    )
    with pytest.raises(RuntimeError, match='no usable sample.*2 broken shard'):
        read(make('pipe:exit 3'), 4)
    with pytest.raises(Exception, match='ended with exit status 3'):
        read(make('pipe:exit 3', skip_broken=False), 4)


def test_shards_without_a_sound_sample_stop_the_run(tmp_path):
    members = [member for n in range(3) for member in damage(n, 'truncated')[0]]
    write_tar(tmp_path / '0.tar', members)
    write_tar(tmp_path / '1.tar', [])

    with pytest.raises(RuntimeError, match="'zoo' has no usable sample .*6 broken image"):
        read(make(f'{tmp_path}/*.tar'), 4)


def test_a_broken_sample_can_be_an_error(tmp_path):
    write_tar(tmp_path / '0.tar', damage(0, 'truncated')[0])

    with pytest.raises(Exception, match='0.tar/00000 cannot be read as an image'):
        read(make(f'{tmp_path}/0.tar', skip_broken=False), 4)


def test_a_cut_anywhere_is_noticed(tmp_path):
    """Tarfile itself ends without a word at a damaged header, or where the end marker is gone."""
    path = write_tar(tmp_path / '0.tar', [member for n in range(4) for member in sound(n)])
    whole = path.read_bytes()
    image = (len(jpeg(0)) + 511) // 512 * 512
    sample = 512 + image + 1024
    cuts = {
        'between samples': whole[: 2 * sample],
        'in a header': whole[: 2 * sample + 100],
        'header overwritten': whole[: 2 * sample] + b'x' * 512 + whole[2 * sample + 512 :],
        'nothing left': b'',
    }
    for content in cuts.values():
        path.write_bytes(content)
        dataset = make([dict(name='zoo', shards=str(path))], shuffle=False, skip_broken=False)
        with pytest.raises(Exception, match='Shard .*0.tar cannot be read on'):
            read(dataset, 4)


def test_misuse_is_explained(tmp_path):
    pattern = write_shards(tmp_path, 1, 1)
    with pytest.raises(TypeError, match='read by SampleKey, not by 0'):
        make(pattern)[0]
    with pytest.raises(RuntimeError, match='Call set_progress'):
        make(pattern)[SampleKey(0, 0, 0, 0)]
    with pytest.raises(ValueError, match='DecodeImage'):
        WebImageTextDataset(dict(shards=pattern, samples=1), [dict(type='LoadImageFromFile')])
    with pytest.raises(ValueError, match='expected a dict with shards'):
        make([dict(path=pattern)])


def test_without_webdataset_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'webdataset', None)
    with pytest.raises(ImportError, match=r'pgseg-mm\[data\]'):
        make('a.tar')


def test_the_systems_errors_are_not_those_of_a_shard(tmp_path, monkeypatch):
    pattern = write_shards(tmp_path, 1, 4)
    shard = Path(pattern.replace('{00000..00000}', '00000'))
    monkeypatch.setattr('pgseg_mm.files.reading.time.sleep', lambda seconds: None)
    opened = open
    faults = [OSError(24, 'Too many open files')] * 2

    def failing(path, *args, **kwargs):
        if str(path) == str(shard) and faults:
            raise faults.pop()
        return opened(path, *args, **kwargs)

    monkeypatch.setattr('pgseg_mm.datasets.pairs.tar_files.open', failing, raising=False)
    assert len(list(read_shard(str(shard)))) == 4
    faults.extend([PermissionError(13, 'Permission denied')] * 9)
    with pytest.raises(FileAccessError, match=r'0.tar could not be read .*Errno 13.*tried 1 times'):
        list(read_shard(str(shard)))


def test_a_shard_is_read_on_where_the_system_failed(tmp_path, monkeypatch):
    pattern = write_shards(tmp_path, 1, 4)
    monkeypatch.setattr('pgseg_mm.files.reading.time.sleep', lambda seconds: None)
    read, calls = RawSample.add, []

    def failing(self, *args):
        calls.append(args)
        if len(calls) == 6:
            raise OSError(5, 'Input/output error')
        return read(self, *args)

    monkeypatch.setattr(RawSample, 'add', failing)
    keys = [sample.key for sample in read_shard(pattern.replace('{00000..00000}', '00000'))]
    assert keys == [f'{number:05d}' for number in range(4)]
