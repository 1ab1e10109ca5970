"""A web demo of the tiny model in a process of its own, and requests to it as bytes."""

import contextlib
import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config

from model_zoo import lively_model, tiny_model_cfg
from prepared_processes import RunningPython

ROOT = Path(__file__).parents[2]
API = '/gradio_api'
META = {'_type': 'gradio.FileData'}


class Reply(NamedTuple):
    """What came back."""

    status: int
    body: bytes

    @property
    def detail(self) -> str:
        """The sentence of a refusal."""
        return json.loads(self.body)['detail']


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


class WebServer:
    """A server, as somebody on the network sees it."""

    def __init__(self, process: subprocess.Popen | RunningPython, port: int, folder: Path) -> None:
        self.process = process
        self.port = port
        self.folder = folder
        self.host = f'127.0.0.1:{port}'

    @property
    def uploads(self) -> Path:
        """Where the server keeps uploads."""
        (folder,) = (self.folder / 'uploads').glob('pgseg-web-*')
        return folder

    @property
    def log(self) -> str:
        """What the server has said."""
        return (self.folder / 'server.log').read_text()

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 30,
    ) -> Reply:
        """One request."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=timeout)
        try:
            connection.request(method, path, body, {'Host': self.host, **(headers or {})})
            response = connection.getresponse()
            return Reply(response.status, response.read())
        finally:
            connection.close()

    def post(self, path: str, content: Any, headers: dict[str, str] | None = None) -> Reply:
        """A request with JSON, or with bytes as they are."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.ask('POST', path, body, {'Content-Type': 'application/json', **(headers or {})})

    def upload(self, content: bytes, name: str = 'a.png', headers: dict | None = None) -> Reply:
        """Upload a file; the body of the reply is a list with its path."""
        border = 'b0rder'
        disposition = f'Content-Disposition: form-data; name="files"; filename="{name}"'
        body = f'--{border}\r\n{disposition}\r\n\r\n'.encode() + content
        body += f'\r\n--{border}--\r\n'.encode()
        kind = {'Content-Type': f'multipart/form-data; boundary={border}'}
        return self.ask('POST', f'{API}/upload', body, {**kind, **(headers or {})})

    def put(self, content: bytes, name: str = 'a.png') -> dict[str, Any]:
        """Upload a file, and name it as the page does."""
        reply = self.upload(content, name)
        assert reply.status == 200, reply
        return {'path': json.loads(reply.body)[0], 'orig_name': name, 'meta': META}

    def segment_number(self) -> int:
        """Number of the function that segments."""
        config = json.loads(self.ask('GET', '/config').body)
        # those behind the examples are the same function
        return min(d['id'] for d in config['dependencies'] if len(d['inputs']) == 4)

    def join(self, data: list[Any], **others: Any) -> Reply:
        """Ask for a segmentation."""
        content = {'data': data, 'fn_index': self.segment_number(), 'session_hash': 'x', **others}
        return self.post(f'{API}/queue/join', content)

    def events(self, session: str, timeout: float = 60) -> Iterator[dict[str, Any]]:
        """What the server tells a session until its requests are done."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=timeout)
        try:
            connection.request('GET', f'{API}/queue/data?session_hash={session}')
            response = connection.getresponse()
            while line := response.readline():
                if line.startswith(b'data: '):
                    yield json.loads(line[6:])
        finally:
            connection.close()

    def segment(self, image: Any, words: str, background: bool = False) -> dict[str, Any]:
        """Segment, and return the last message of the queue for it."""
        session = uuid.uuid4().hex[:10]
        reply = self.join([image, words, background, 0.95], session_hash=session)
        assert reply.status == 200, reply
        done = [e for e in self.events(session) if e['msg'] == 'process_completed']
        return done[-1]


def end_with_the_parent() -> None:
    """Let a process of Linux end when the one that has started it is killed."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if pytest is in background


@contextlib.contextmanager
def web_server(folder: Path, *options: str, prepared: bool = False) -> Iterator[WebServer]:
    """A server that runs; its temporary files are below ``folder``.

    It is a fresh interpreter or, where the start is not what is looked at, a prepared process.
    """
    Config(dict(model=tiny_model_cfg())).dump(folder / 'tiny.py')
    torch.save(dict(state_dict=lively_model().state_dict()), folder / 'tiny.pth')
    port = free_port()
    words = ['tiny.py', 'tiny.pth', '--port', str(port), '--device', 'cpu', *options]
    environment = {
        **os.environ,
        'PYTHONPATH': str(ROOT),
        'GRADIO_TEMP_DIR': str(folder / 'uploads'),
    }
    command, log = [str(ROOT / 'demo' / 'web_demo.py'), *words], folder / 'server.log'
    process: subprocess.Popen | RunningPython
    if prepared:
        process = RunningPython(command, log, log, folder, environment)
    else:
        with log.open('w') as output:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT,
                preexec_fn=end_with_the_parent,
            )  # fmt: skip
    server = WebServer(process, port, folder)
    try:
        for _ in range(600):
            assert process.poll() is None, server.log
            with contextlib.suppress(OSError):
                if server.ask('GET', '/').status == 200:
                    break
            time.sleep(0.1)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(20)
