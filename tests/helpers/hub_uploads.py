"""The part of the hub on the loopback address that takes uploads."""

import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml


def is_large(name: str) -> bool:
    """Whether a file goes by Git LFS and is kept under its SHA-256."""
    return name.endswith(('.bin', '.safetensors', '.pth'))


class Uploads:
    """Answers to POST and PUT, for a handler of requests."""

    hub: Any
    kept: dict[str, bytes] = {}
    """Large files by SHA-256, before a commit names them."""

    def do_POST(self) -> None:
        body = self._body()
        path = unquote(urlsplit(self.path).path)  # type: ignore[attr-defined]
        self.hub.requests.append(f'POST {path}')
        if self.hub.faults.status is not None:
            return self.error(self.hub.faults.status, '')
        if path == '/api/validate-yaml':
            return self._validate(json.loads(body)['content'])
        if path == '/api/repos/create':
            asked = json.loads(body)
            return self._create(f'{asked["organization"]}/{asked["name"]}')
        if found := re.fullmatch(r'/api/models/([^/]+/[^/]+)/preupload/main', path):
            if self._may_write(found[1]):
                names = [file['path'] for file in json.loads(body)['files']]
                modes = {name: 'lfs' if is_large(name) else 'regular' for name in names}
                files = [
                    {'path': name, 'uploadMode': mode, 'shouldIgnore': False}
                    for name, mode in modes.items()
                ]
                self._json({'files': files})
            return None
        if found := re.fullmatch(r'/([^/]+/[^/]+)\.git/info/lfs/objects/batch', path):
            if self._may_write(found[1]):
                self._json({'objects': [self._action(o) for o in json.loads(body)['objects']]})
            return None
        if path == '/lfs/verify':
            return self._json({}, 200 if json.loads(body)['oid'] in self.kept else 404)
        if found := re.fullmatch(r'/api/models/([^/]+/[^/]+)/commit/main', path):
            if self._may_write(found[1]):
                self._commit(found[1], [json.loads(line) for line in body.splitlines()])
            return None
        return self.error(404, 'RepoNotFound')

    def do_PUT(self) -> None:
        body = self._body()
        oid = self.path.rpartition('/')[2]  # type: ignore[attr-defined]
        assert hashlib.sha256(body).hexdigest() == oid
        self.kept[oid] = body
        self.send(b'')

    def _body(self) -> bytes:
        headers, file = self.headers, self.rfile  # type: ignore[attr-defined]
        if headers.get('Transfer-Encoding') != 'chunked':
            return file.read(int(headers.get('Content-Length') or 0))
        pieces = []
        while size := int(file.readline(), 16):
            pieces.append(file.read(size))
            file.readline()
        file.readline()
        return b''.join(pieces)

    def _may_write(self, repository: str) -> bool:
        token = (self.headers.get('Authorization') or '').removeprefix('Bearer ')  # type: ignore[attr-defined]
        owners = self.hub.writers.get(token)
        if owners is None:
            self.error(401, '')
        elif repository.partition('/')[0] not in owners:
            self.error(403, '')
        else:
            return True
        return False

    def _validate(self, text: str) -> None:
        front = yaml.safe_load(text.split('---\n')[1])
        faults = []
        if front.get('license') == 'other' and not front.get('license_name'):
            faults.append('license_name is required')
        if not re.fullmatch(r'[a-z0-9.-]+', front.get('license_name', 'a')):
            faults.append('license_name is no identifier')
        if any(' ' in name for name in front.get('datasets', [])):
            faults.append('datasets must be names of data sets')
        errors = [{'message': fault} for fault in faults]
        self._json({'errors': errors, 'warnings': []}, 400 if errors else 200)

    def _create(self, repository: str) -> None:
        if not self._may_write(repository):
            return
        status = 409 if repository in self.hub.models else 200
        if status == 200:
            self.new_model(repository)
        self._json({'url': f'{self.hub.url}/{repository}'}, status)

    def _action(self, file: dict[str, Any]) -> dict[str, Any]:
        upload = {'href': f'{self.hub.url}/lfs/{file["oid"]}'}
        verify = {'href': f'{self.hub.url}/lfs/verify'}
        return {**file, 'actions': {'upload': upload, 'verify': verify}}

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        model = self.hub.models[repository]
        for line in lines:
            value = line['value']
            if line['key'] == 'file':
                model.files[value['path']] = base64.b64decode(value['content'])
            elif line['key'] == 'lfsFile':
                model.files[value['path']] = self.kept[value['oid']]
        url = f'{self.hub.url}/{repository}/commit/{model.commit}'
        self._json({'commitUrl': url, 'commitOid': model.commit})

    def _json(self, content: Any, status: int = 200) -> None:
        self.send(json.dumps(content).encode(), {'Content-Type': 'application/json'}, status)

    def new_model(self, name: str) -> None:
        raise NotImplementedError

    def send(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        raise NotImplementedError

    def error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        raise NotImplementedError
