"""What a request must be like before gradio sees it."""

import asyncio
import json
import logging
import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlencode

import gradio as gr
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from web_hosts import Hosts, RefusedError
from web_uploads import NoRoomError, NotAnUploadError, UploadFolder

from pgseg_mm import limits

TOKEN = re.compile(r'[A-Za-z0-9_-]{1,64}')
API = '/gradio_api'
JOIN, DATA, UPLOAD = f'{API}/queue/join', f'{API}/queue/data', f'{API}/upload'
UPLOAD_PROGRESS, FILE = f'{API}/upload_progress', f'{API}/file='
POSTS = (JOIN, UPLOAD, f'{API}/cancel', f'{API}/reset')
GETS = (
    '/', '/config', '/config/', '/theme.css', '/favicon.ico', '/robots.txt', '/manifest.json',
    '/pwa_icon', DATA, UPLOAD_PROGRESS, f'{API}/info', f'{API}/info/', f'{API}/app_id',
    f'{API}/user',
    f'{API}/theme.css', f'{API}/startup-events', f'{API}/login_check', f'{API}/queue/status',
)  # fmt: skip
PATH_PREFIXES = ('/assets/', '/static/', '/svelte/', '/pwa_icon/', FILE, f'{API}/heartbeat/')
"""What the page asks for. The rest of gradio's addresses are for programs and other servers."""
QUERIES = {DATA: 'session_hash', UPLOAD: 'upload_id', UPLOAD_PROGRESS: 'upload_id'}
REMEMBERED = 10_000
"""Sessions of which it is known when they asked last."""
MULTIPART_BYTES = 2**16
"""Room for what an upload has besides its file."""

FORGED = 'This is not a request that the page makes; reload the page and try again.'
TOO_LONG = 'The request is too long; use fewer words.'
FILE_TOO_LARGE = 'The file is larger than the maximum allowed size.'
BUSY = 'Too many requests are open; try again later.'

ArgumentCheck = Callable[[Any], Any]
logger = logging.getLogger('pgseg_mm.web')


class Listeners:
    """Who waits for results, as far as a job can know: sessions that listen to the queue."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._joined: OrderedDict[str, float] = OrderedDict()
        self._listening: dict[str, int] = {}
        self._gone: OrderedDict[str, float] = OrderedDict()

    def joined(self, session: str) -> None:
        """A session has asked for something."""
        self._note(self._joined, session)

    def came(self, session: str) -> None:
        """A session begins to listen."""
        with self._lock:
            self._listening[session] = self._listening.get(session, 0) + 1

    def went(self, session: str) -> None:
        """A session listens no longer."""
        with self._lock:
            left = self._listening.pop(session) - 1
            if left:
                self._listening[session] = left
        self._note(self._gone, session)

    def waits_for(self, session: str) -> bool:
        """Whether somebody listens, or comes to listen soon after having asked.

        Asking again in the meantime keeps no job waiting longer.
        """
        with self._lock:
            last = self._joined.get(session, -math.inf) + limits.MAX_WEB_ABSENCE
        while True:
            with self._lock:
                now = time.monotonic()
                joined = self._joined.get(session, -math.inf)
                if self._listening.get(session):
                    return True
                if self._gone.get(session, -math.inf) > joined:
                    return False
            if now > last:
                return False
            time.sleep(0.02)

    def _note(self, times: OrderedDict[str, float], session: str) -> None:
        with self._lock:
            times[session] = time.monotonic()
            times.move_to_end(session)
            while len(times) > REMEMBERED:
                times.popitem(last=False)


class Guard:
    """ASGI middleware that passes on what the page asks for, and refuses the rest with a sentence.

    Args:
        app: What is behind it.
        hosts: Names of the server.
        uploads: Folder of the uploads.
        functions: For each function of the page, by its number, checks of its arguments.
        listeners: Who waits for results.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Hosts,
        uploads: UploadFolder,
        functions: dict[int, list[ArgumentCheck]],
        listeners: Listeners,
    ) -> None:
        self.app = app
        self.hosts = hosts
        self.uploads = uploads
        self.functions = functions
        self.listeners = listeners
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] == 'lifespan':
            return await self.app(scope, receive, send)
        if scope['type'] != 'http':
            return await send({'type': 'websocket.close', 'code': 1008})
        self._open += 1
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            if self._open > limits.MAX_WEB_CONNECTIONS:
                raise RefusedError(503, BUSY)
            await self._pass_on(scope, receive, note)
        except RefusedError as error:
            if not started:
                content = {'detail': error.message, 'error': error.message}
                response = JSONResponse(content, error.status, {'Connection': 'close'})
                await response(scope, receive, send)
        finally:
            self._open -= 1
        return None

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self.hosts.check(headers)
        path = check_address(scope)
        scope = {**scope, **checked_query(scope, path), 'headers': own_headers(scope)}
        if path.startswith(FILE):
            try:
                self.uploads.check(path.removeprefix(FILE))
            except NotAnUploadError as error:
                raise RefusedError(404, str(error)) from error
        if path == UPLOAD:
            return await self._upload(scope, headers, receive, send)
        if scope['method'] == 'POST':
            content = await self._body(path, receive)
            return await self.app(scope, replay(content, receive), send)
        if path != DATA:
            return await self.app(scope, receive, send)
        session = parse_qs(scope['query_string'].decode())['session_hash'][0]
        self.listeners.came(session)
        try:
            return await self.app(scope, receive, send)
        finally:
            self.listeners.went(session)

    async def _upload(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        limit = self.uploads.max_file_bytes + MULTIPART_BYTES
        declared = headers.get('content-length', '')
        size = int(declared) if re.fullmatch('[0-9]{1,18}', declared) else limit
        if not headers.get('content-type', '').startswith('multipart/form-data;'):
            raise RefusedError(400, FORGED)
        if size > limit:
            raise RefusedError(413, FILE_TOO_LARGE)
        try:
            await asyncio.to_thread(self.uploads.reserve, size)
        except NoRoomError as error:
            raise RefusedError(507, str(error)) from error
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get('body', b''))
            if read > limit:
                raise RefusedError(413, FILE_TOO_LARGE)
            return message

        try:
            await self.app(scope, counted, send)
        except RefusedError:
            raise
        except Exception as error:  # gradio's parser fails in many ways
            logger.warning('An upload failed: %s', str(error)[:200] or type(error).__name__)
            raise RefusedError(400, FORGED) from error
        finally:
            self.uploads.release(size)

    async def _body(self, path: str, receive: Receive) -> bytes:
        """The body of a request, as the page would have written it."""
        parts = bytearray()
        while True:
            message = await receive()
            if message['type'] == 'http.disconnect':
                raise RefusedError(400, FORGED)
            parts += message.get('body', b'')
            if len(parts) > limits.MAX_WEB_REQUEST_BYTES:
                raise RefusedError(413, TOO_LONG)
            if not message.get('more_body'):
                break
        try:
            body = json.loads(bytes(parts))
        except (ValueError, RecursionError) as error:
            raise RefusedError(400, FORGED) from error
        if not isinstance(body, dict):
            raise RefusedError(400, FORGED)
        session, number = body.get('session_hash'), body.get('fn_index')
        if not is_token(session) or not is_number(number) or number not in self.functions:
            raise RefusedError(400, FORGED)
        known: dict[str, Any] = {'session_hash': session, 'fn_index': number}
        if path == JOIN:
            trigger = body.get('trigger_id')
            known['data'] = self._arguments(number, body.get('data'))
            known['trigger_id'] = trigger if is_number(trigger) else None
            self.listeners.joined(session)
        else:
            if not is_token(body.get('event_id')):
                raise RefusedError(400, FORGED)
            known['event_id'] = body['event_id']
        return json.dumps(known).encode()

    def _arguments(self, number: int, data: Any) -> list[Any]:
        checks = self.functions[number]
        if not isinstance(data, list) or len(data) != len(checks):
            raise RefusedError(400, FORGED)
        try:
            return [check(value) for check, value in zip(checks, data, strict=True)]
        except NotAnUploadError as error:
            raise RefusedError(400, str(error)) from error
        except ValueError as error:
            raise RefusedError(400, FORGED) from error


def check_address(scope: Scope) -> str:
    """The path of a request, if the page may ask for it.

    Raises:
        RefusedError: If it does not.
    """
    path, method = scope['path'], scope['method']
    if method == 'POST' and path in POSTS:
        return path
    if method in ('GET', 'HEAD') and (path in GETS or path.startswith(PATH_PREFIXES)):
        heartbeat = f'{API}/heartbeat/'
        if path.startswith(heartbeat) and not is_token(path.removeprefix(heartbeat)):
            raise RefusedError(400, FORGED)
        return path
    raise RefusedError(404, FORGED)


def checked_query(scope: Scope, path: str) -> dict[str, bytes]:
    """The query with the one key that the page gives; the rest is left out."""
    key = QUERIES.get(path)
    values = parse_qs(scope['query_string'].decode('latin-1')).get(key, []) if key else []
    if any(not is_token(value) for value in values) or (path == DATA and len(values) != 1):
        raise RefusedError(400, FORGED)
    return {'query_string': urlencode([(key, value) for value in values]).encode()}


def own_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The headers without what only a proxy may say, but for the protocol and the client."""
    left_out = (b'x-forwarded-host', b'x-forwarded-server', b'x-gradio-server', b'forwarded')
    return [
        (key, value)
        for key, value in scope['headers']
        if key not in left_out and (key != b'content-length' or scope['path'] == UPLOAD)
    ]


def replay(content: bytes, receive: Receive) -> Receive:
    """A body that has been read, as if it came now."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {'type': 'http.request', 'body': content, 'more_body': False}

    return receive_again


def is_token(value: Any) -> bool:
    """Whether this is a name as gradio's page makes them."""
    return isinstance(value, str) and TOKEN.fullmatch(value) is not None


def is_number(value: Any) -> bool:
    """Whether this is a whole number of a usual size."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def checks_of(page: gr.Blocks, uploads: UploadFolder) -> dict[int, list[ArgumentCheck]]:
    """For each function of a page, by its number, a check of each argument.

    A check returns the argument as it is passed on.
    """
    return {
        number: [check_for(component, uploads) for component in function.inputs]
        for number, function in page.fns.items()
    }


def check_for(component: Any, uploads: UploadFolder) -> ArgumentCheck:
    """The check of what a component of the page sends.

    Raises:
        TypeError: There is no check for such a component.
    """
    if isinstance(component, gr.Image):
        return lambda value: checked_file(value, uploads)
    if isinstance(component, gr.Textbox):
        return checked_text
    if isinstance(component, gr.Checkbox):
        return checked_switch
    if isinstance(component, gr.Slider):
        return lambda value: checked_share(value, component.minimum, component.maximum)
    raise TypeError(f'There is no check for the input of a {type(component).__name__}.')


def checked_file(value: Any, uploads: UploadFolder) -> dict[str, Any] | None:
    """An upload, or none."""
    if value is None:
        return None
    meta = {'_type': 'gradio.FileData'}
    if not isinstance(value, dict) or value.get('meta') != meta:
        raise ValueError('no file')
    uploads.check(value.get('path'))
    return {'path': value['path'], 'meta': meta}


def checked_text(value: Any) -> str:
    """Text that is Unicode."""
    if not isinstance(value, str):
        raise ValueError('no text')
    value.encode()  # half a surrogate pair is none: a UnicodeEncodeError
    return value


def checked_switch(value: Any) -> bool:
    """On or off."""
    if not isinstance(value, bool):
        raise ValueError('no switch')
    return value


def checked_share(value: Any, least: float, most: float) -> float:
    """A number from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError('no number')
    if not least <= value <= most:  # not a number, too
        raise ValueError('out of range')
    return value
