"""Faults of a hub, a cache and a disk: a sentence, and nothing that breaks the next call."""

import contextlib
import os
import pickle
import re
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from hub_server import Model, entries, refused
from pgseg_mm.checkpoints import kept, locate, sources
from pgseg_mm.serialization.loading import load_checkpoint

NAME = 'hf-hub:tiny/safetensors'
YFCC = 'nvidia/groupvit-gcc-yfcc'


def test_a_typo_names_the_nearest(at_hub):
    message = refused('hf-hub:nvidia/groupvit-gcc-yfc')
    assert f'is not on {at_hub.url}' in message and f'did you mean {YFCC}' in message


@pytest.mark.parametrize(
    'name', ['hf-hub:bert', 'hf-hub:../../etc', 'hf-hub:a/b@../../c', 'hf-hub:']
)
def test_what_is_no_name_is_refused_without_a_request(at_hub, name):
    assert 'write hf-hub:owner/name' in refused(name)
    assert not at_hub.requests


def test_a_gated_model_says_how_to_log_in(at_hub, monkeypatch):
    at_hub.models['tiny/safetensors'].token = 'secret'
    message = refused(NAME)
    assert 'hf auth login' in message and f'{at_hub.url}/tiny/safetensors' in message
    monkeypatch.setenv('HF_TOKEN', 'secret')
    assert locate(NAME).is_file()


def test_a_refusal_by_the_hub_says_how_to_log_in(at_hub):
    at_hub.faults.status = 403
    assert re.search(r'refuses .* \(403\): log in', refused(NAME))


def test_a_connection_that_is_cut_is_taken_up_where_it_was(at_hub):
    at_hub.faults.cuts = 2
    assert load_checkpoint(NAME).state_dict
    assert len(at_hub.ranges) == 2 and all(int(r[6:-1]) > 0 for r in at_hub.ranges)


def test_a_connection_that_stays_cut_leaves_nothing_that_breaks_the_next_call(at_hub, tmp_path):
    at_hub.faults.cuts = 99
    message = refused(NAME)
    assert 'could not be downloaded' in message and 'run this again' in message
    at_hub.faults.cuts = 0
    assert load_checkpoint(NAME).state_dict
    assert not list((tmp_path / 'home').rglob('*.incomplete'))


def test_wrong_bytes_stop_the_load_and_are_not_kept(at_hub):
    at_hub.faults.wrong_bytes = True
    message = refused(NAME)
    assert 'SHA-256' in message and 'run this again' in message
    assert not entries()
    at_hub.faults.wrong_bytes = False
    assert load_checkpoint(NAME).state_dict


@pytest.mark.parametrize('header', ['ETag', 'X-Linked-ETag', 'X-Repo-Commit'])
def test_headers_of_the_hub_cannot_leave_the_cache(at_hub, tmp_path, header):
    at_hub.faults.headers = {header: f'"{tmp_path}/evil"' if 'ETag' in header else '../../../evil'}
    assert f'answers with {header}' in refused(NAME)
    assert not list(tmp_path.rglob('evil*'))


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'model.safetensors.index.json': b'{"weight_map": {"a": "../../evil.bin"}}'}, 'outside'),
        ({'model.safetensors.index.json': b'{"weight_map": {"a": "/etc/hosts"}}'}, 'outside'),
        ({'model.safetensors.index.json': b'{"weight_map": {"a": "b.bin"}}'}, 'lacks files'),
        ({'model.safetensors.index.json': b'<html>'}, 'is no JSON file'),
        ({}, 'has none of the files model.safetensors'),
        ({'config.json': b'{"model_type": "clip"}', 'pytorch_model.bin': b''}, "type 'clip'"),
        ({'pytorch_model.bin': pickle.dumps({'a': os.getcwd})}, 'cannot be read as a PyTorch'),
        ({'config.json': None}, 'has no config.json'),
    ],
)
def test_models_that_are_none(at_hub, folders, tmp_path, change, said):
    config = (folders['bin'] / 'config.json').read_bytes()
    files = {'config.json': config, 'README.md': b'', **change}
    at_hub.models['tiny/none'] = Model({k: v for k, v in files.items() if v is not None})
    assert said in refused('hf-hub:tiny/none')
    assert not entries() and not list(tmp_path.rglob('evil*'))


def test_weights_of_another_size_are_refused(at_hub, folders):
    state = torch.load(folders['bin'] / 'pytorch_model.bin')
    del state['vision_model.layernorm.weight']
    folder = folders['bin'].with_name('lacking')
    folder.mkdir(exist_ok=True)
    (folder / 'config.json').write_bytes((folders['bin'] / 'config.json').read_bytes())
    torch.save(state, folder / 'pytorch_model.bin')
    assert '1 missing: vision_model.layernorm.weight' in refused(folder)


def test_a_pickle_runs_nothing(at_hub, tmp_path, folders):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'run'),)

    state = torch.load(folders['bin'] / 'pytorch_model.bin')
    path = tmp_path / 'pytorch_model.bin'
    torch.save({**state, 'logit_scale': Malicious()}, path)
    at_hub.models['tiny/evil'] = Model(
        {'config.json': b'{}', 'pytorch_model.bin': path.read_bytes(), 'modeling.py': b'1/0'}
    )
    assert 'holds no state dict of tensors' in refused('hf-hub:tiny/evil')
    assert not (tmp_path / 'run').exists()


def damage(path: Path, how: str) -> None:
    record = path.with_name(f'{path.name}.json')
    content = path.read_bytes()
    if how == 'half':
        path.write_bytes(content[: len(content) // 2])
    elif how == 'a bit':
        path.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    elif how == 'no record':
        record.unlink()
    elif how == 'broken record':
        record.write_text('{')
    else:
        path.unlink()


@pytest.mark.parametrize('how', ['half', 'a bit', 'no record', 'broken record', 'gone'])
def test_an_entry_that_is_not_whole_is_made_anew(at_hub, folders, how):
    path = locate(folders['bin'])
    content = load_checkpoint(path).state_dict
    damage(path, how)
    again = locate(folders['bin'])
    assert again == path
    found = load_checkpoint(again).state_dict
    assert all(torch.equal(found[name], value) for name, value in content.items())
    assert not kept.is_whole(path, path) and kept.is_whole(path, Path(f'{path}.json'))


def in_a_child(work) -> int:
    """Process number of a copy of this process that does some work."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            work()
            status = 0
        os._exit(status)
    return child


def test_processes_convert_once(at_hub, folders, tmp_path, monkeypatch):
    convert = sources.convert_folder

    def counted(folder, source, path):
        (tmp_path / f'conversion-{os.getpid()}').touch()
        time.sleep(0.5)
        convert(folder, source, path)

    monkeypatch.setattr(sources, 'convert_folder', counted)
    children = [in_a_child(lambda: locate(folders['bin'])) for _ in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert len(list(tmp_path.glob('conversion-*'))) == 1
    assert load_checkpoint(folders['bin']).state_dict


def test_a_process_that_is_killed_while_it_converts_leaves_nothing_that_counts(
    at_hub, folders, tmp_path, monkeypatch
):
    save = torch.save

    def slow(content, file):
        save(content, file)
        file.truncate(1000)
        (tmp_path / 'writing').touch()
        time.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr(torch, 'save', slow)
        child = in_a_child(lambda: locate(folders['bin']))
    for _ in range(600):
        if (tmp_path / 'writing').exists():
            break
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    folder = tmp_path / 'cache' / 'checkpoints'
    assert not entries() and len(list(folder.glob('.*~*'))) == 1
    assert load_checkpoint(folders['bin']).state_dict
    assert len(entries()) == 1


@contextlib.contextmanager
def little_room(size: int):
    """No file may become larger, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_while_downloading(at_hub):
    with little_room(2**20):
        message = refused(NAME)
    assert 'is full' in message and 'HF_HOME' in message
    assert load_checkpoint(NAME).state_dict


def test_a_full_disk_while_converting(at_hub, folders):
    with little_room(2**20):
        message = refused(folders['bin'])
    assert 'cannot be written' in message and 'PGSEG_CACHE' in message
    assert load_checkpoint(folders['bin']).state_dict


def test_caches_that_cannot_be_written_to(at_hub, folders, tmp_path, monkeypatch):
    (tmp_path / 'a file').touch()
    with monkeypatch.context() as patch:
        patch.setenv('PGSEG_CACHE', str(tmp_path / 'a file' / 'cache'))
        message = refused(folders['bin'])
        assert 'cannot be written to' in message and 'set PGSEG_CACHE' in message
    with monkeypatch.context() as patch:
        patch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'a file' / 'hub'))
        message = refused(NAME)
        assert 'cannot be written to' in message and 'set HF_HOME' in message
    assert load_checkpoint(NAME).state_dict
