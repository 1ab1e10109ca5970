"""A hub with a tiny model in all formats."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http

from groupvits import FORMATS, files_of, small_groupvit, write_folder
from hub_server import HubServer, Model, use_hub


@pytest.fixture(scope='module')
def theirs():
    return small_groupvit()


@pytest.fixture(scope='module')
def folders(theirs, tmp_path_factory) -> dict[str, Path]:
    """The same model in all formats."""
    root = tmp_path_factory.mktemp('models')
    return {kind: write_folder(theirs, root / kind.replace(' ', '-'), kind) for kind in FORMATS}


@pytest.fixture(scope='module')
def server():
    with HubServer() as server:
        yield server


@pytest.fixture
def at_hub(server, folders, tmp_path, monkeypatch) -> HubServer:
    """A hub without faults, and empty caches."""
    server.models = {f'tiny/{path.name}': Model(files_of(path)) for path in folders.values()}
    server.faults = type(server.faults)()
    server.requests.clear()
    server.ranges.clear()
    use_hub(monkeypatch, server.url, tmp_path / 'home')
    monkeypatch.setenv('PGSEG_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(constants, 'DOWNLOAD_CHUNK_SIZE', 2**16)
    hasty = SimpleNamespace(**{**vars(time), 'sleep': lambda seconds: None})  # between attempts
    monkeypatch.setattr(_http, 'time', hasty)
    monkeypatch.setattr(file_download, 'time', hasty)
    return server
