"""Hostile requests to a web demo that runs: addresses, headers, bodies, and forged arguments."""

import contextlib
import itertools
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from odd_images import encode, picture
from web_server import API, META, WebServer, web_server


class Declined(Exception):
    """The right answer to a hostile request."""


REFUSALS = (Declined,)
ALLOWED = ('socket.connect', 'socket.getaddrinfo')  # to the server, which is a process of its own
_open = contextlib.ExitStack()
_running: dict[str, Any] = {}

SECRET = b'a secret of the server'
ROUTES = (
    '/', '/config', '/theme.css', '/assets/x', '/static/x', '/svelte/x', '/manifest.json',
    '/login', '/docs',
    '/monitoring', '/monitoring/summary', '/favicon.ico', f'{API}/info', f'{API}/app_id',
    f'{API}/queue/join',
    f'{API}/queue/status', f'{API}/upload', f'{API}/upload_progress', f'{API}/cancel',
    f'{API}/reset',
    f'{API}/run/predict', f'{API}/api/predict', f'{API}/call/answer', f'{API}/component_server',
    f'{API}/proxy=http://127.0.0.1/', f'{API}/file=/etc/passwd', f'{API}/file=', f'{API}/stream/a',
    f'{API}/process_recording', f'{API}/vibe-edit', f'{API}/dev/reload', f'{API}/runs',
    f'{API}/mcp',
    f'{API}/deep_link', f'{API}/openapi.json', f'{API}/custom_component/a/b/c/d',
    '/%2e%2e/%2e%2e/etc/passwd',
    '//etc/passwd', '/assets/../../../etc/passwd', f'{API}/file/etc/passwd',
)  # fmt: skip
METHODS = ('GET', 'POST', 'HEAD', 'PUT', 'DELETE', 'OPTIONS', 'PATCH', 'TRACE', 'BREW')
HOSTS = (
    'evil.example',
    'localhost',
    '127.0.0.1:1',
    '[::1]',
    '10.0.0.1',
    'a\tb',
    '127.0.0.1, evil.example',
)
HEADERS = (
    ('Origin', 'http://evil.example'), ('Origin', 'null'), ('X-Forwarded-Host', 'evil.example'),
    ('X-Forwarded-Proto', 'javascript'), ('X-Forwarded-For', '1.2.3.4'), ('Content-Type',
    'text/plain'),
    ('Content-Type', 'multipart/form-data'), ('Content-Type',
    'multipart/form-data; boundary=' + 'a' * 500),
    ('Content-Encoding', 'gzip'), ('Range', 'bytes=0-99999999999'), ('Cookie', 'access-token=x'),
    ('Referer', 'http://evil.example/'), ('X-Gradio-Server', 'http://127.0.0.1/'), ('Accept',
    '*' * 3000),
    ('Content-Length', '-1'), ('Transfer-Encoding', 'gzip'), ('Expect', '100-continue'),
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1e308, 10**30, '', 'dog . cat', 'a' * 300, '\0',
    '../../etc/passwd', [], {}, [[]],
    {'path': '/etc/passwd', 'meta': META}, {'path': '/etc/passwd'},
    {'path': 'http://127.0.0.1/', 'meta': META},
    {'path': '/dev/zero', 'meta': META, 'url': 'http://127.0.0.1/'}, {'path': [], 'meta': META},
    {'path': None, 'meta': META, 'is_stream': True}, {'__type__': 'update'},
    {'_type': 'gradio.FileData'},
)  # fmt: skip


class Request(NamedTuple):
    """A request, of which ``{PATH}`` and ``{SECRET}`` are filled in."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


def cases(seed: int) -> Iterator[tuple[str, Request]]:
    """Names and requests, without an end."""
    rng = random.Random(seed)
    for number in itertools.count():
        kind = rng.choice(('route', 'join', 'join', 'body', 'file', 'upload'))
        headers = dict(rng.sample(HEADERS, rng.choice((0, 0, 0, 1, 2))))
        if rng.random() < 0.1:
            headers['Host'] = rng.choice(HOSTS)
        yield f'{number} {kind}', globals()[f'_{kind}'](rng, headers)


def _route(rng: random.Random, headers: dict[str, str]) -> Request:
    path = rng.choice(ROUTES) + rng.choice(
        ('', '', '/', '?a=b', '?deep_link=../../a', '%00', '/..')
    )
    return Request(
        rng.choice(METHODS), path, tuple(headers.items()), rng.choice((b'', b'{}', b'[]'))
    )


def _join(rng: random.Random, headers: dict[str, str]) -> Request:
    data = [{'path': rng.choice(('{PATH}', '{SECRET}')), 'meta': META}, 'dog . cat', False, 0.9]
    content: dict[str, Any] = {
        'data': data,
        'fn_index': rng.randrange(-1, 4),
        'session_hash': 'fuzz',
    }
    for _ in range(rng.choice((0, 1, 2))):
        data[rng.randrange(4)] = rng.choice(VALUES)
    if rng.random() < 0.3:
        key = rng.choice(('data', 'fn_index', 'session_hash', 'trigger_id', 'event_data', 'batched',
                          'simple_format', 'request', 'event_id'))  # fmt: skip
        content[key] = rng.choice(VALUES)
    if rng.random() < 0.1:
        data.append(rng.choice(VALUES))
    kind = {'Content-Type': 'application/json', **headers}
    return Request('POST', f'{API}/queue/join', tuple(kind.items()), json.dumps(content).encode())


def _body(rng: random.Random, headers: dict[str, str]) -> Request:
    body = bytearray(_join(rng, {}).body)
    for _ in range(rng.choice((1, 3, 20))):
        body[rng.randrange(len(body))] = rng.randrange(256)
    deep = b'{"data":' + b'[' * 30_000
    body = rng.choice((bytes(body), bytes(body[: rng.randrange(len(body))]), deep, b'9' * 70_000))
    path = rng.choice(('queue/join', 'cancel', 'reset'))
    kind = {'Content-Type': 'application/json', **headers}
    return Request('POST', f'{API}/{path}', tuple(kind.items()), body)


def _file(rng: random.Random, headers: dict[str, str]) -> Request:
    path = rng.choice(
        ('{SECRET}', '{PATH}/../../../secret.png', '/etc/passwd', '{PATH}', '/proc/self/environ')
    )
    path = rng.choice((path, path.replace('/', '%2f'), path.replace('/', '//'), f'{path}%00.png'))
    return Request(rng.choice(('GET', 'HEAD')), f'{API}/file={path}', tuple(headers.items()), b'')


def _upload(rng: random.Random, headers: dict[str, str]) -> Request:
    name = rng.choice(
        ('a.png', '../../a.png', '/etc/passwd', 'a' * 300, 'a\0b', '.', '..', '', 'a.html', 'con')
    )
    head = (
        f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    )
    body = (
        head
        + rng.choice((b'', b'text', encode(picture(), 'PNG'), bytes(300_000)))
        + b'\r\n--b--\r\n'
    )
    if rng.random() < 0.3:
        body = body[: rng.randrange(len(body))]
    kind = {'Content-Type': 'multipart/form-data; boundary=b', **headers}
    return Request('POST', f'{API}/upload', tuple(kind.items()), body)


def prepare() -> None:
    """Start a server with an upload and a secret beside it."""
    folder = Path(_open.enter_context(tempfile.TemporaryDirectory()))
    (folder / 'secret.png').write_bytes(SECRET)
    server = _open.enter_context(web_server(folder))
    _running.update(server=server, upload=server.put(encode(picture(), 'PNG'))['path'])


def finish() -> None:
    """End the server."""
    _open.close()


def attempt(request: Request) -> None:
    """Send a request to the server; see :func:`send`.

    Raises:
        Declined: It was not done.
    """
    if not 200 <= send(request=request, **_running) < 300:
        raise Declined


def send(server: WebServer, upload: str, request: Request) -> int:
    """Send a request to a server whose folder has a ``secret.png`` with :data:`SECRET`.

    Returns:
        The status of the reply, or 0 where there was none.

    Raises:
        AssertionError: The reply holds what it must not, or the server has an error of its own.
    """
    secret = str(server.folder / 'secret.png')

    def fill(text: str) -> str:
        return text.replace('{PATH}', upload).replace('{SECRET}', secret)

    body = fill(request.body.decode('latin-1')).encode('latin-1')
    try:
        reply = server.ask(
            request.method, fill(request.path), body or None, dict(request.headers), timeout=20
        )
    except (ConnectionError, ValueError, TimeoutError):
        return 0  # no request at all, or one that uvicorn does not take
    assert SECRET not in reply.body and b'root:' not in reply.body, request
    assert b'Traceback' not in reply.body and reply.status != 500, (reply, request)
    assert b'secret.png' not in reply.body, (reply, request)
    return reply.status
