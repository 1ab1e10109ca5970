"""What a stranger can make the web demo do: segment an image that was uploaded to it, no more."""

import http.client
import importlib
import importlib.util
import io
import itertools
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odd_images import encode, picture
from pgseg_mm import limits
from web_demo_parts import WORDS
from web_server import API, META, WebServer, web_server

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('gradio') is None, reason='gradio is not installed'
)
NOT_HERE = 'The image is not here, or no longer; upload it again.'
FORGED = 'This is not a request that the page makes; reload the page and try again.'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('web')
    (folder / 'secret.png').write_bytes(encode(picture(), 'PNG'))
    return folder


@pytest.fixture(scope='module')
def server(folder):
    with web_server(folder, '--max-file-size', '0.2', prepared=True) as server:
        yield server


@pytest.fixture(scope='module')
def image(server):
    return server.put(encode(picture(96, 128), 'PNG'))


def outside(server: WebServer) -> list[str]:
    """Paths that are no uploads: files, devices, addresses, and names of nothing."""
    folder = server.uploads
    inside = folder / 'made'
    inside.mkdir(exist_ok=True)
    if not (inside / 'fifo').exists():
        os.mkfifo(inside / 'fifo')
        (inside / 'link.png').symlink_to(server.folder / 'secret.png')
        (folder / 'linked').symlink_to(server.folder)
    return [
        str(server.folder / 'secret.png'), str(server.folder / 'missing.png'), '/etc/passwd',
        '/dev/zero', '/dev/stdin', '/proc/self/environ', '/', '', '.', 'secret.png', '~/.netrc',
        f'{folder}', f'{inside}', f'{inside}/', f'{inside}/fifo', f'{inside}/link.png',
        f'{folder}/linked/secret.png', f'{folder}/../../secret.png', f'{folder}/.lock',
        f'{folder}//made/x', f'{inside}/missing.png', f'{inside}/a\0b', f'{inside}/\ud800',
        f'{inside}/{"a" * 5000}', f'http://127.0.0.1:{server.port}/', 'http://localhost/a.png',
        'http://[::1]/a.png', 'http://2130706433/a.png', 'https://example.org/a.png', 'file:///etc/passwd',
        'data:image/png;base64,AAAA', 's3://bucket/a.png', 'petrel://a/b.png', 'ftp://a/b.png',
        '//etc/passwd', '\\\\server\\share',
    ]  # fmt: skip


def test_only_uploads_are_read_and_replies_do_not_tell_which_other_files_exist(server):
    for path in outside(server):
        reply = server.join([{'path': path, 'meta': META}, WORDS, False, 0.95])
        assert (reply.status, reply.detail) == (400, NOT_HERE), path


def test_a_path_without_gradios_mark_is_refused_and_so_is_an_address_beside_it(server, image):
    for forged in (
        {'path': str(server.folder / 'secret.png')},
        {'path': image['path']},
        {'path': image['path'], 'meta': None},
        {'path': image['path'], 'meta': {'_type': 'other'}},
        {'url': 'http://127.0.0.1/'},
        image['path'],
        [image],
    ):
        reply = server.join([forged, WORDS, False, 0.95])
        assert (reply.status, reply.detail) == (400, FORGED), forged
    beside = {**image, 'url': 'http://127.0.0.1:1/', 'is_stream': True, 'size': -1}
    assert server.segment(beside, WORDS)['success']


FORGERIES = [
    dict(data=[]),
    dict(data=[None]),
    dict(data=[None, WORDS, False, 0.95, 1]),
    dict(data=None),
    dict(data='abcd'),
    dict(data={'0': None}),
    dict(data=[None, None, False, 0.95]),
    dict(data=[None, 5, False, 0.95]),
    dict(data=[None, [WORDS], False, 0.95]),
    dict(data=[None, '\ud800', False, 0.95]),
    dict(data=[None, WORDS, 1, 0.95]),
    dict(data=[None, WORDS, 'yes', 0.95]),
    dict(data=[None, WORDS, False, float('nan')]),
    dict(data=[None, WORDS, False, float('inf')]),
    dict(data=[None, WORDS, False, -1]),
    dict(data=[None, WORDS, False, 10**400]),
    dict(data=[None, WORDS, False, '0.9']),
    dict(data=[None, WORDS, False, True]),
    dict(data=[None, WORDS, False, None]),
    dict(fn_index=10**6),
    dict(fn_index=-1),
    dict(fn_index=True),
    dict(fn_index=None),
    dict(fn_index='0'),
    dict(fn_index=0.0),
    dict(session_hash=None),
    dict(session_hash=''),
    dict(session_hash='a/../b'),
    dict(session_hash='a' * 65),
    dict(session_hash=5),
]


@pytest.mark.parametrize('forged', FORGERIES, ids=repr)
def test_forged_arguments_get_one_sentence(server, forged):
    content = dict(data=[None, WORDS, False, 0.95], session_hash='x')
    reply = server.join(**{**content, **forged})
    assert (reply.status, reply.detail) == (400, FORGED)


@pytest.mark.parametrize(
    ('body', 'status'),
    [
        (b'', 400), (b'{', 400), (b'[]', 400), (b'null', 400), (b'5', 400), (b'\xff\xfe', 400),
        (b'[' * 60_000, 400), (b'{"a":' * 10_000 + b'1' + b'}' * 10_000, 400),
        (b'{"fn_index": ' + b'9' * 6000 + b'}', 400), (b'"' + b'a' * 70_000 + b'"', 413),
    ],
    ids=[
        'nothing', 'half', 'list', 'null', 'number', 'bytes', 'deep', 'deeper', 'digits', 'long',
    ],
)  # fmt: skip
def test_bodies_that_the_page_does_not_send_get_one_sentence(server, body, status):
    for path in ('queue/join', 'cancel', 'reset'):
        reply = server.post(f'{API}/{path}', body)
        assert reply.status == status and reply.detail.endswith(('again.', 'fewer words.'))


def test_the_server_answers_to_its_own_names_only(server):
    for host in (f'127.0.0.1:{server.port}', f'localhost:{server.port}', 'LOCALHOST.', '[::1]:80'):
        assert server.ask('GET', '/', headers={'Host': host}).status == 200
    for host in ('evil.example', f'evil.example:{server.port}', '127.0.0.1.evil.example',
                 '10.0.0.1', 'localhost@evil.example', '', 'a b', '127.0.0.1:99999999', '[::1',
                 '2130706433', 'localhost.evil.example', '127.1', '0x7f.0.0.1'):  # fmt: skip
        for method, path in (('GET', '/'), ('GET', '/config'), ('POST', f'{API}/queue/join')):
            assert server.ask(method, path, headers={'Host': host}).status == 421, host


def test_two_names_or_none_are_refused(server):
    for hosts in ([server.host, 'evil.example'], []):
        connection = http.client.HTTPConnection('127.0.0.1', server.port, timeout=10)
        connection.putrequest('GET', '/', skip_host=True)
        for host in hosts:
            connection.putheader('Host', host)
        connection.endheaders()
        assert connection.getresponse().status in (400, 421)
        connection.close()


def test_pages_of_other_sites_can_ask_for_nothing(server, image):
    content = dict(data=[image, WORDS, False, 0.95], session_hash='x')
    for origin in ('http://evil.example', 'null', f'http://127.0.0.1:{server.port + 1}',
                   f'http://localhost:{server.port}', f'http://{server.host}.evil.example',
                   'http://[', 'file://', ''):  # fmt: skip
        headers = {'Origin': origin}
        assert server.ask('GET', '/config', headers=headers).status == 403, origin
        content['fn_index'] = 0
        assert server.post(f'{API}/queue/join', content, headers).status == 403
        assert server.upload(b'image', headers=headers).status == 403
    own = {'Origin': f'http://{server.host}'}
    assert server.upload(encode(picture(), 'PNG'), headers=own).status == 200


@pytest.mark.parametrize(
    'path',
    [
        'run/predict', 'api/predict', 'call/answer', 'call/v2/answer', 'component_server',
        'proxy=http://127.0.0.1/', 'proxy=https://example.org/a', 'process_recording', 'vibe-edit',
        'vibe-code', 'stream/a', 'stream/a/close', 'dev/reload', 'file/etc/passwd', 'deep_link',
        'runs', 'run-history/connect', 'run-history/records', 'profiling/traces', 'mcp', 'mcp/sse',
        'openapi.json', 'custom_component/a/client/component/b', '../config', '../monitoring',
        '../login', '../docs', '../redoc', '../openapi.json', '../monitoring/summary', 'upload/',
    ],
)  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(server, path):
    path = f'/{path[3:]}' if path.startswith('../') else f'{API}/{path}'
    methods = ('POST', 'PUT', 'DELETE', 'PATCH') if path == '/config' else ('GET', 'POST', 'PUT')
    for method in methods:
        assert server.ask(method, path, b'{}').status == 404


def test_264_requests_for_files_give_none_but_uploads(server, image):
    secret = (server.folder / 'secret.png').read_bytes()
    paths = outside(server)[:33]
    spellings = [
        lambda path: path,
        lambda path: path.replace('/', '%2f'),
        lambda path: path.replace('/', '%252f'),
        lambda path: f'{server.uploads}/{path}',
        lambda path: f'{server.uploads}/../../..{path}',
        lambda path: path.replace('.', '%2e'),
        lambda path: f'{path}?x=1',
        lambda path: f'{image["path"]}/../../{path}',
    ]
    asked = 0
    for path, spell in itertools.product(paths, spellings):
        spelled = spell(path).encode('utf-8', 'replace').decode()[:2000]
        address = ''.join(c if 32 < ord(c) < 127 else f'%{ord(c):02x}' for c in spelled)
        reply = server.ask('GET', f'{API}/file={address}')
        assert (
            reply.status in (400, 404) and secret not in reply.body and b'root:' not in reply.body
        )
        asked += 1
    assert asked == 264
    assert server.ask('GET', f'{API}/file={image["path"]}').body == encode(picture(96, 128), 'PNG')


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ('a' * 20_000, 'The words have 20000 letters; at most 10000 are allowed.'),
        (' . '.join(f'w{i}' for i in range(301)), 'There are 301 words; at most 300 are allowed.'),
        ('dog . ' + 'a' * 201, 'has 201 letters; at most 200 are allowed.'),
    ],
)
def test_words_have_limits(server, image, words, message):
    start = time.monotonic()
    reply = server.segment(image, words)
    assert not reply['success'] and message in reply['output']['error']
    assert time.monotonic() - start < 10


def test_words_within_the_limits_are_answered(server, image):
    words = ' . '.join(f'{"abcdefghij" * 3}{i}' for i in range(250))
    assert server.segment(image, words)['success']


def test_words_stand_in_the_legend_as_they_are_written(server, image):
    legend = server.segment(image, '<script>alert(1)</script> . <img src=x> . a&b')['output'][
        'data'
    ][3]
    assert '<script' not in legend and '<img' not in legend
    assert '&lt;script&gt;' in legend and 'a&amp;b' in legend


def test_twenty_requests_at_once_have_the_results_that_each_has_alone(server):
    images = [server.put(encode(picture(40 + 8 * i, 64), 'PNG'), f'{i}.png') for i in range(5)]
    words = ['dog . cat', 'sky . red car', 'a . b . c', 'grass . dog']
    tasks = list(itertools.product(images, words))

    def result(task):
        data = server.segment(*task)['output']['data']
        return [server.ask('GET', f'{API}/file={d["path"]}').body for d in data[:3]] + data[3:]

    alone = [result(task) for task in tasks]
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(result, tasks)) == alone


def pictures(server: WebServer) -> set[Path]:
    return set(server.uploads.rglob('image.png'))


def test_a_job_whose_client_has_gone_does_not_start(server):
    image = server.put(encode(picture(50, 70), 'PNG'))
    before = pictures(server)
    for number in range(5):
        session = f'gone{number}'
        assert server.join([image, WORDS, False, 0.95], session_hash=session).status == 200
    time.sleep(limits.MAX_WEB_ABSENCE + 2)
    assert pictures(server) == before
    assert server.segment(image, WORDS)['success'] and pictures(server) != before


def test_the_queue_has_an_end(server):
    image = server.put(encode(picture(), 'PNG'))
    statuses = [
        server.join([image, WORDS, False, 0.95], session_hash=f'queue{i}').status
        for i in range(limits.MAX_WEB_QUEUE + 5)
    ]
    assert statuses.count(503) >= 3 and set(statuses) == {200, 503}
    deadline = time.monotonic() + 60
    while server.join([image, WORDS, False, 0.95], session_hash='next').status == 503:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_an_upload_that_is_too_large_is_refused_with_and_without_a_length(server):
    assert server.upload(bytes(400_000)).status == 413
    connection = http.client.HTTPConnection('127.0.0.1', server.port, timeout=20)
    kind = 'multipart/form-data; boundary=b'
    chunks = [b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n']
    chunks += [bytes(50_000)] * 40
    try:
        connection.request('POST', f'{API}/upload', iter(chunks), {'Content-Type': kind},
                           encode_chunked=True)  # fmt: skip
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        assert sum(path.stat().st_size for path in server.uploads.rglob('*')) < 10**7
    finally:
        connection.close()


def test_an_image_of_many_pixels_is_refused_and_a_large_one_made_smaller(server, demo):
    bomb = encode(Image.new('1', (8000, 8000)), 'PNG')
    reply = server.segment(server.put(bomb), WORDS)
    assert '8000 x 8000 pixels, more than max_pixels=50000000' in reply['output']['error']
    shrink = demo('web_demo').shrink
    assert shrink(np.zeros((2000, 2000, 3), np.uint8)).shape == (2000, 2000, 3)
    large = shrink(np.full((6000, 8000, 3), 7, np.uint8))
    assert large.shape == (1774, 2365, 3) and (large == 7).all()
    assert shrink(np.zeros((1, 49_000_000, 3), np.uint8)).shape[0] == 1


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        ('multipart/form-data; boundary=' + 'a' * 500, 'a.png'),
        ('multipart/form-data', 'a.png'),
        ('multipart/form-data; boundary=', 'a.png'),
        ('multipart/form-data; boundary=b; charset=none', 'a.png'),
        ('text/plain', 'a.png'),
    ],
)
def test_malformed_uploads_get_one_sentence(server, kind, name):
    reply = server.upload(b'image', name, {'Content-Type': kind})
    assert reply.status == 400 and len(reply.body) < 200


@pytest.mark.parametrize('name', ['../../a.png', '/etc/passwd', 'a' * 300, '..', '', 'a.html'])
def test_an_upload_lies_in_the_folder_whatever_its_name(server, name):
    before = {path for path in server.folder.rglob('*') if server.uploads not in path.parents}
    reply = server.upload(b'image', name)
    assert reply.status in (200, 400)
    for path in json.loads(reply.body) if reply.status == 200 else ():
        assert Path(path).parent.parent == server.uploads
    assert before == {
        path for path in server.folder.rglob('*') if server.uploads not in path.parents
    }


def test_three_hundred_hostile_requests_give_nothing_away(server, folder, image):
    from fuzz import fuzz_web

    (folder / 'secret.png').write_bytes(fuzz_web.SECRET)
    statuses = {
        fuzz_web.send(server, image['path'], request)
        for _, request in itertools.islice(fuzz_web.cases(0), 300)
    }
    assert {200, 400, 403, 404, 421} <= statuses
    assert server.segment(image, WORDS)['success']


def test_nothing_that_happened_here_was_an_error_of_the_program(server):
    assert 'Traceback' not in server.log


def test_replies_are_json_that_the_page_can_show(server):
    reply = server.post(f'{API}/queue/join', {})
    assert json.loads(reply.body) == {'detail': FORGED, 'error': FORGED}
    assert Image.open(io.BytesIO(encode(picture(), 'PNG'))).size == (40, 30)
