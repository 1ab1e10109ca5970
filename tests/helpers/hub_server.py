"""A Hugging Face Hub on the loopback address, with models and with faults.

It answers what ``huggingface_hub`` asks when it downloads: information on a model, HEAD of a file
with ETag and commit, a redirect to where large files lie, and parts of those; and what it asks when
it uploads without Xet: a repository, how each file is to go, large files by Git LFS, a commit.
"""

import hashlib
import http.server
import json
import os
import re
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

from hub_uploads import Uploads, is_large
from pgseg_mm.checkpoints import hub
from pgseg_mm.serialization.loading import CheckpointError, load_checkpoint

PIECE = 2**14


@dataclass
class Model:
    """A repository on the server, at one commit."""

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ('main',)
    token: str | None = None
    """Who has not this one gets 401, as for a gated model."""
    license: str | None = None

    @property
    def commit(self) -> str:
        digest = hashlib.sha1()
        for name, content in sorted(self.files.items()):
            digest.update(f'{name} {git_hash(content)} '.encode())
        return digest.hexdigest()


@dataclass
class Faults:
    """What goes wrong, until it is put right."""

    cuts: int = 0
    """Number of answers that end half-way."""
    wrong_bytes: bool = False
    """Whether large files are others than their hash says, of the same length."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers that take the place of the right ones."""
    status: int | None = None
    """Status of all answers."""


@lru_cache
def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@lru_cache
def git_hash(content: bytes) -> str:
    return hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()


class HubServer:
    """The server; its models may be changed while it runs."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.faults = Faults()
        self.writers: dict[str, tuple[str, ...]] = {}
        """Owners whose repositories a token may write."""
        self.requests: list[str] = []
        """Method and path of each request."""
        self.ranges: list[str] = []
        """``Range`` headers that were asked for."""
        server = self

        class Handler(_Handler):
            hub = server

        self._server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f'http://127.0.0.1:{self._server.server_port}'

    def __enter__(self) -> 'HubServer':
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def downloads(self) -> list[str]:
        """Names of large files that were sent, and of URLs' files."""
        return [path.rpartition('/')[2] for path in self.requests if path.startswith('GET /large/')]


class _Handler(Uploads, http.server.BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = 'HTTP/1.1'

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.hub.requests.append(f'{self.command} {path}')
        if self.hub.faults.status is not None:
            return self.error(self.hub.faults.status, '')
        if found := re.fullmatch(r'/api/models/([^/]+/[^/]+)(?:/revision/(.+))?', path):
            if model := self._model(found[1], found[2] or 'main'):
                self.send(json.dumps(self._about(found[1], model, parts.query)).encode())
            return None
        if found := re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', path):
            if model := self._model(found[1], found[2]):
                self._resolve(found[1], model, found[3])
            return None
        if found := re.fullmatch(r'/large/([^/]+/[^/]+)/(.+)', path):
            content = self.hub.models[found[1]].files[found[2]]
            return self.send(content[::-1] if self.hub.faults.wrong_bytes else content)
        return self.error(404, 'RepoNotFound')

    def _model(self, name: str, revision: str) -> Model | None:
        """A model that this client may see; else the answer is given."""
        model = self.hub.models.get(name)
        if model is None:
            return self.error(404, 'RepoNotFound')
        sent = self.headers.get('Authorization')
        if model.token is not None and sent != f'Bearer {model.token}':
            return self.error(401, 'GatedRepo')
        if revision not in (*model.revisions, model.commit):
            return self.error(404, 'RevisionNotFound')
        return model

    def _about(self, name: str, model: Model, query: str) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = [{'rfilename': file} for file in model.files]
        if parse_qs(query).get('blobs'):
            for sibling in siblings:
                content = model.files[sibling['rfilename']]
                sibling |= {'size': len(content), 'blobId': git_hash(content)}
                if is_large(sibling['rfilename']):
                    lfs = {'sha256': sha256(content), 'size': len(content), 'pointerSize': 134}
                    sibling['lfs'] = lfs
        card = {} if model.license is None else {'cardData': {'license': model.license}}
        return {
            'id': name,
            'modelId': name,
            'sha': model.commit,
            'private': False,
            'siblings': siblings,
            **card,
        }

    def _resolve(self, name: str, model: Model, file: str) -> None:
        if file not in model.files:
            return self.error(404, 'EntryNotFound', {'X-Repo-Commit': model.commit})
        content = model.files[file]
        headers = {'X-Repo-Commit': model.commit, 'ETag': f'"{git_hash(content)}"'}
        if not is_large(file):
            return self.send(content, headers)
        headers |= {
            'X-Linked-ETag': f'"{sha256(content)}"',
            'X-Linked-Size': str(len(content)),
            # by another name, as large files lie on another host
            'Location': f'{self.hub.url.replace("127.0.0.1", "localhost")}/large/{name}/{file}',
        }
        return self.send(b'', headers, 302)

    def new_model(self, name: str) -> None:
        self.hub.models[name] = Model({})

    def error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        coded = {'X-Error-Code': code, 'X-Error-Message': HTTPStatus(status).phrase}
        self.send(b'', {**(headers or {}), **coded}, status)

    def send(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        size = len(body)
        headers = {'Accept-Ranges': 'bytes', **(headers or {})} | self.hub.faults.headers
        if (asked := self.headers.get('Range')) and status == 200:
            self.hub.ranges.append(asked)
            start = int(asked.removeprefix('bytes=').partition('-')[0])
            headers['Content-Range'] = f'bytes {start}-{size - 1}/{size}'
            body, status = body[start:], 206
        self.send_response(status)
        for name, value in {'Content-Length': str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == 'HEAD':
            return
        if self.hub.faults.cuts and len(body) > PIECE:
            self.hub.faults.cuts -= 1
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body)


def use_hub(monkeypatch, url: str, home: object) -> None:
    """Have this process ask a server and keep files in a folder, as HF_ENDPOINT and HF_HOME do."""
    hub.download.cache_clear()
    template = url + '/{repo_id}/resolve/{revision}/{filename}'
    monkeypatch.setattr(constants, 'ENDPOINT', url)
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', f'{home}/hub')
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', f'{home}/token')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)  # which another server would take
    monkeypatch.delenv('HF_TOKEN', raising=False)


def refused(source: object) -> str:
    """The sentence of a refusal."""
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(source)
    message = str(error.value)
    assert len(message) < 500 and '\n' not in message
    return message


def entries() -> list[Path]:
    """Checkpoints that were converted and are kept."""
    return list((Path(os.environ['PGSEG_CACHE']) / 'checkpoints').glob('[!.]*.pth'))
