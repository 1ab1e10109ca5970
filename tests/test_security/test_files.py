"""A file is the old one or the new one, and what killed processes leave is cleared."""

import os
import re
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

from pgseg_mm.models.inference.embedding_cache import EmbeddingCache
from pgseg_mm.serialization import atomic_files
from pgseg_mm.serialization.atomic_files import (
    clear_leftovers,
    read_state,
    write_atomically,
    write_json,
)
from pgseg_mm.serialization.saving import save_atomically


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / 'new' / 'x.json'
    write_json(path, {'a': 1})

    def break_off(temporary):
        temporary.write_text('half')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, break_off)
    assert path.read_text() == '{\n "a": 1\n}\n'
    assert [entry.name for entry in path.parent.iterdir()] == ['x.json']


def test_a_name_may_be_as_long_as_the_system_has_it(tmp_path):
    path = tmp_path / ('\u5199' * 80 + '.json')  # 245 bytes
    write_json(path, {'a': 1})
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_umask_is_never_changed(tmp_path, monkeypatch):
    before = os.umask(0o027)
    monkeypatch.setattr(os, 'umask', lambda mask: pytest.fail('the umask was set'))
    try:
        write_json(tmp_path / 'x.json', {})
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert (tmp_path / 'x.json').stat().st_mode & 0o777 == 0o640


@pytest.fixture
def dead_process():
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    return process.pid


def test_leftovers_of_dead_processes_are_cleared(tmp_path, dead_process):
    def leftover(host, process):
        path = tmp_path / f'.x.pth.~{host}~{process}~0123abcd.pth'
        path.touch()
        return path

    dead = leftover(atomic_files.HOST_NAME, dead_process)
    running = leftover(atomic_files.HOST_NAME, os.getppid())
    elsewhere = leftover('another', dead_process)
    forgotten = leftover('third', dead_process)
    os.utime(forgotten, (time.time() - 10**6,) * 2)
    others = [tmp_path / name for name in ('.x.pth', '.config.settings.json', 'x.pth')]
    for path in others:
        path.touch()
    assert sorted(clear_leftovers(tmp_path)) == sorted([dead, forgotten])
    assert all(path.exists() for path in (running, elsewhere, *others))


def test_the_cache_of_embeddings_is_cleared(tmp_path, dead_process):
    leftover = (
        tmp_path / f'.k.safetensors.~{atomic_files.HOST_NAME}~{dead_process}~0123abcd.safetensors'
    )
    leftover.touch()
    EmbeddingCache(tmp_path).save('k', torch.ones(2, 3))
    assert [path.name for path in tmp_path.iterdir()] == ['k.safetensors']


WRITERS = {
    'torch': lambda path: torch.save({'a': torch.ones(10**6)}, path),
    'safetensors': lambda path: save_file({'a': torch.ones(10**6)}, path),
}


@pytest.mark.parametrize('writer', WRITERS)
def test_a_full_disk_is_an_error_of_the_system(tmp_path, writer):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, before[1]))
    try:
        with pytest.raises(OSError, match=r'x\.pth cannot be written|File too large'):
            write_atomically(tmp_path / 'x.pth', WRITERS[writer])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('content', [b'{"a": 1', b'[]', b'\xff', b'[' * 10**5, b''])
def test_a_damaged_result_is_named_and_made_again(tmp_path, content, monkeypatch):
    warnings = []
    monkeypatch.setattr(atomic_files, 'print_log', lambda text, **_: warnings.append(text))
    (tmp_path / 'kept.json').write_bytes(content)
    assert read_state(tmp_path / 'kept.json', 'it is evaluated again') is None
    assert re.search(r'kept\.json is damaged .*: it is evaluated again', warnings[0])


def test_files_of_another_container_are_those_of_another_machine(tmp_path, monkeypatch):
    """Containers may have the host's name, and number their processes from one on."""
    path = tmp_path / f'.x.pth.~{atomic_files.HOST_NAME}~999999999~0123abcd.pth'
    monkeypatch.setattr(os, 'readlink', lambda path: 'pid:[1]')
    monkeypatch.setattr(atomic_files, 'HOST_NAME', atomic_files.host_name())
    path.touch()
    assert clear_leftovers(tmp_path) == []


def test_a_file_of_torch_tells_nothing_of_where_it_was_written(tmp_path):
    for folder in ('a', 'b'):
        save_atomically(tmp_path / folder / 'x.pth', {'a': torch.ones(3)})
    one, other = ((tmp_path / folder / 'x.pth').read_bytes() for folder in ('a', 'b'))
    assert one == other
    assert atomic_files.HOST_NAME.encode() not in one
