"""Parts of the web demo: whom it serves, in which order, and what becomes of uploads."""

import hashlib
import importlib
import importlib.util
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from odd_images import encode, picture
from pgseg_mm import limits
from web_demo_parts import ROOT, WORDS
from web_server import web_server

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('gradio') is None, reason='gradio is not installed'
)


def test_names_of_a_server_that_lets_others_in(demo):
    from starlette.datastructures import Headers

    guard = demo('web_guard')

    def allows(hosts, host, origin=None) -> bool:
        headers = {'host': host} | ({} if origin is None else {'origin': origin})
        try:
            hosts.check(Headers(headers))
        except guard.RefusedError:
            return False
        return True

    everywhere = guard.Hosts('0.0.0.0', ['demo.example'])
    assert allows(everywhere, '192.168.1.7:7860') and allows(everywhere, '[fe80::1]:7860')
    assert allows(everywhere, 'demo.example') and not allows(everywhere, 'evil.example')
    assert allows(everywhere, '127.0.0.1:7860', 'https://demo.example')
    assert not allows(everywhere, '192.168.1.7:7860', 'http://192.168.1.8')
    assert allows(guard.Hosts('::'), '[2001:db8::1]') and not allows(guard.Hosts('::'), 'a.example')
    named = guard.Hosts('server.lan')
    assert allows(named, 'server.lan:80') and not allows(named, '192.168.1.7')
    assert allows(guard.Hosts('127.0.0.1', ['*']), 'any.example', 'http://other.example')


def test_who_waits_for_a_result(demo, monkeypatch):
    listeners = demo('web_guard').Listeners()
    monkeypatch.setattr(limits, 'MAX_WEB_ABSENCE', 0.3)
    assert not listeners.waits_for('nobody')
    listeners.joined('a')
    assert not listeners.waits_for('a')
    listeners.joined('b')
    threading.Timer(0.1, listeners.came, ['b']).start()
    assert listeners.waits_for('b')
    listeners.came('b')
    listeners.went('b')
    assert listeners.waits_for('b')
    listeners.went('b')
    start = time.monotonic()
    assert not listeners.waits_for('b') and time.monotonic() - start < 0.2


def test_who_asks_again_and_again_holds_up_nobody(demo, monkeypatch):
    listeners = demo('web_guard').Listeners()
    monkeypatch.setattr(limits, 'MAX_WEB_ABSENCE', 0.3)
    listeners.joined('a')
    timers = [threading.Timer(0.1 * n, listeners.joined, ['a']) for n in range(1, 20)]
    for timer in timers:
        timer.start()
    start = time.monotonic()
    assert not listeners.waits_for('a') and time.monotonic() - start < 1
    for timer in timers:
        timer.cancel()


@pytest.fixture
def uploads(demo, tmp_path):
    folder = demo('web_uploads').UploadFolder(tmp_path / 'uploads', 1000)
    yield folder
    if folder.path.exists():
        folder.close()


def stored(uploads, name: str, size: int, age: float) -> Path:
    """An upload of a size and an age in seconds."""
    path = uploads.path / hashlib.sha256(name.encode()).hexdigest() / 'a.png'
    path.parent.mkdir()
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_uploads_have_a_total_and_the_oldest_make_room(demo, uploads, monkeypatch):
    monkeypatch.setattr(limits, 'MAX_WEB_UPLOAD_BYTES', 3000)
    old, older = stored(uploads, 'old', 1000, 400), stored(uploads, 'older', 1000, 500)
    young = stored(uploads, 'young', 900, 5)
    uploads.reserve(500)
    assert not older.parent.exists() and old.exists() and young.exists()
    uploads.reserve(1000)
    assert not old.exists() and young.exists()
    with pytest.raises(demo('web_uploads').NoRoomError, match='no room for another image'):
        uploads.reserve(1000)
    uploads.release(1000)
    uploads.reserve(1000)
    monkeypatch.setattr(limits, 'MAX_WEB_UPLOAD_FILES', 1)
    with pytest.raises(demo('web_uploads').NoRoomError):
        uploads.reserve(1)


def test_pictures_count_as_uploads_do(demo, uploads, monkeypatch):
    gradio = pytest.importorskip('gradio')
    model = SimpleNamespace(makes_groups=True)
    inferencer = SimpleNamespace(default_threshold=lambda: 0.95, model=model)
    listeners = SimpleNamespace(waits_for=lambda session: True)
    page = demo('web_demo').build_page(inferencer, uploads, listeners)
    answer = next(function.fn for function in page.fns.values() if function.name == 'answer')
    request = SimpleNamespace(session_hash='a')
    monkeypatch.setattr(limits, 'MAX_WEB_UPLOAD_BYTES', 10**7)
    old = stored(uploads, 'old', 10**6, 400)
    for _ in range(2):  # what was reserved is given back
        with pytest.raises(gradio.Error, match='Upload an image first'):
            answer(None, WORDS, False, 0.95, request)
    assert not old.exists()
    stored(uploads, 'young', 10**6, 0)
    with pytest.raises(gradio.Error, match='no room'):
        answer(None, WORDS, False, 0.95, request)


def test_old_uploads_are_removed_while_the_server_runs(uploads):
    old, young = stored(uploads, 'old', 10, 3700), stored(uploads, 'young', 10, 3500)
    uploads.remove_old()
    assert not old.parent.exists() and young.exists()


def test_an_upload_that_grew_is_not_read(demo, uploads):
    path = stored(uploads, 'a', 1001, 0)
    with pytest.raises(demo('web_uploads').NotAnUploadError):
        uploads.read(str(path))
    path.write_bytes(b'abc')
    assert uploads.read(str(path)) == b'abc'


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_uploads_are_removed_when_the_server_ends(tmp_path, number):
    with web_server(tmp_path, prepared=True) as running:
        running.put(encode(picture(), 'PNG'))
        folder = running.uploads
        assert folder.stat().st_mode & 0o777 == 0o700
        running.process.send_signal(number)
        running.process.wait(20)
        assert not folder.exists()


def test_uploads_of_a_killed_server_are_removed_by_the_next_one(tmp_path, demo):
    folder_of = demo('web_uploads').UploadFolder
    with web_server(tmp_path, prepared=True) as running:
        left = running.uploads
        other = folder_of(tmp_path / 'uploads')  # of a server that runs
        assert left.is_dir()
        running.process.kill()
        running.process.wait(20)
    foreign = tmp_path / 'uploads' / 'pgseg-web-foreign'
    foreign.mkdir()  # nobody's: it has no lock
    (tmp_path / 'uploads' / 'pgseg-web-link').symlink_to(ROOT)
    new = folder_of(tmp_path / 'uploads')
    assert not left.exists() and other.path.is_dir() and foreign.is_dir() and ROOT.is_dir()
    new.close()
    other.close()


def test_every_input_of_the_page_has_a_check(demo):
    import gradio as gr

    with pytest.raises(TypeError, match='no check for the input of a File'):
        demo('web_guard').check_for(gr.File(), None)


@pytest.mark.parametrize('path', ['/gradio_api/upload', '/gradio_api/queue/join'])
def test_what_only_a_proxy_may_say_is_left_out(demo, path):
    names = [b'x-forwarded-host', b'x-gradio-server', b'forwarded', b'content-length', b'accept']
    found = demo('web_guard').own_headers(
        {'path': path, 'headers': [(name, b'1') for name in names]}
    )
    kept = [b'content-length'] * path.endswith('upload') + [b'accept']
    assert [name for name, _ in found] == kept
