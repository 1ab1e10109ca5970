"""``pgseg web`` in a real browser without a window."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse
from urllib.request import ProxyHandler, build_opener

import pytest
import torch
from mmengine.config import Config

from groupvits import files_of, small_groupvit, write_folder
from hub_server import HubServer, Model
from model_zoo import lively_model, tiny_model_cfg
from odd_images import BROKEN, odd_image, picture

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
_missing = [name for name in ('gradio', 'playwright') if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(_missing), reason=f'not installed: {", ".join(_missing)}'),
    pytest.mark.skipif(CHROMIUM is None, reason='no chromium on this machine'),
]
ARGUMENTS = [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
]  # fmt: skip
WAIT = 30_000
"""Milliseconds that the page has for anything."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('web')
    Config(dict(model=tiny_model_cfg())).dump(folder / 'tiny.py')
    torch.save(dict(state_dict=lively_model().state_dict()), folder / 'tiny.pth')
    picture(96, 128).save(folder / 'scene.png')
    for name in BROKEN:
        (folder / name).write_bytes(odd_image(name))
    (folder / 'large.png').write_bytes(odd_image('rgba.png') + bytes(300_000))
    return folder


@contextmanager
def serving(folder: Path, *arguments: str, **variables: str) -> Iterator[str]:
    """Address of the page of ``pgseg web``; the log of the server is in server.log."""
    port = free_port()
    words = ['web', *arguments, '--device', 'cpu', '--port', str(port)]
    uploads = {'PYTHONPATH': str(ROOT), 'GRADIO_TEMP_DIR': str(folder / 'uploads')}
    with (folder / 'server.log').open('w') as log:
        process = subprocess.Popen(
            [sys.executable, ROOT / 'pgseg_command.py', *words],
            cwd=folder, env=os.environ | uploads | variables, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    address = f'http://127.0.0.1:{port}/'
    opener = build_opener(ProxyHandler({}))
    try:
        for _ in range(600):
            try:
                opener.open(address, timeout=5).close()
                break
            except (URLError, OSError):
                assert process.poll() is None, (folder / 'server.log').read_text()
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope='module')
def server(folder):
    model = ['--config', 'tiny.py', '--checkpoint', 'tiny.pth']
    with serving(folder, *model, '--max-file-size', '0.2') as address:
        yield address


@pytest.fixture(scope='module')
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def opened(browser, address: str):
    """The page, and in ``page.asked`` the machines that it asked for something."""
    page = browser.new_page(viewport=dict(width=1280, height=1100))
    page.set_default_timeout(WAIT)
    page.asked = set()
    page.on('request', lambda request: page.asked.add(urlparse(request.url)))
    page.goto(address)
    return page


@pytest.fixture
def page(browser, server):
    page = opened(browser, server)
    yield page
    page.close()


def upload(page, path) -> None:
    page.locator('input[type=file]').first.set_input_files(path)
    page.locator('#upload img').wait_for()


def segment(page, words: str) -> None:
    page.get_by_label('words').fill(words)
    page.locator('#segment').click()


def toast(page) -> str:
    """The message that pops up."""
    message = page.locator('.toast-body').first
    message.wait_for()
    return message.inner_text()


def test_an_image_and_words_give_a_picture_and_a_legend(page, folder):
    upload(page, folder / 'scene.png')
    page.locator('#background input').check()
    segment(page, 'dog . red car . <b>grass</b>')
    page.locator('#segments img').wait_for()
    page.locator('#legend table').wait_for()
    rows = page.locator('#legend tr').all_inner_texts()
    assert rows[0].split('\t') == ['class', 'area', 'mean score'] and len(rows) == 5
    names = {row.split('\t')[0] for row in rows[1:]}
    assert names == {'background', 'dog', 'red car', '<b>grass</b>'}
    areas = [float(re.search(r'([\d.]+)%', row)[1]) for row in rows[1:]]
    assert sum(areas) == pytest.approx(100, abs=0.3) and areas == sorted(areas, reverse=True)
    assert page.locator('#first-stage img').count() == page.locator('#last-stage img').count() == 1
    sizes = page.locator('#segments img').evaluate('i => [i.naturalWidth, i.naturalHeight]')
    assert sizes == [512, 384]
    page.wait_for_load_state('networkidle')
    hosts = {url.hostname for url in page.asked if url.scheme not in ('data', 'blob')}
    assert hosts == {'127.0.0.1'}
    if 'PGSEG_SCREENSHOT' in os.environ:
        page.screenshot(path=os.environ['PGSEG_SCREENSHOT'], full_page=True)


@pytest.mark.parametrize(
    ('image', 'words', 'message'),
    [
        (None, 'dog . cat', 'Upload an image first'),
        ('scene.png', '', 'There is no word to look for'),
        ('scene.png', 'dog, dog', "'dog' stands in class 0 and in class 1"),
        ('truncated.jpg', 'dog, cat', 'truncated.jpg cannot be read as an image: it is cut off'),
        ('text.jpg', 'dog, cat', 'text.jpg cannot be read as an image'),
        ('bomb.png', 'dog, cat', '10000 x 10000 pixels, more than max_pixels'),
        ('large.png', 'dog, cat', 'maximum allowed size'),
    ],
)
def test_errors_are_sentences(page, folder, image, words, message):
    if image is not None:
        page.locator('input[type=file]').first.set_input_files(folder / image)
        if image != 'large.png':
            page.wait_for_load_state('networkidle')
    if image != 'large.png':
        segment(page, words)
    assert message in toast(page)
    assert 'Traceback' not in (folder / 'server.log').read_text()


def test_one_word_alone_is_warned_of(page, folder):
    upload(page, folder / 'scene.png')
    segment(page, 'dog')
    assert 'One word alone takes every pixel' in toast(page)
    page.locator('#segments img').wait_for()


@pytest.mark.parametrize(('number', 'word'), [(0, 'cat'), (1, 'cup of coffee')])
def test_an_example_is_segmented_by_one_click(page, folder, number, word):
    page.locator(f'#example-{number}').click()
    page.locator('#segments img').wait_for()
    assert page.locator('#upload img').count() == 1
    assert page.get_by_label('words').input_value().startswith(f'{word} . ')
    assert word in page.locator('#legend table').inner_text()
    page.locator('#words textarea, #words input').fill('sky . grass')
    page.locator('#segment').click()  # it can be segmented again like an upload
    page.locator('#legend td', has_text='grass').wait_for()
    assert 'Traceback' not in (folder / 'server.log').read_text()


def test_the_published_model_is_fetched_by_its_name(browser, tmp_path):
    """``pgseg web`` alone, with a small model at the hub, and again when the hub is gone."""
    picture(96, 128).save(tmp_path / 'scene.png')
    weights = write_folder(small_groupvit(), tmp_path / 'model', 'safetensors')
    variables = {'HF_HOME': str(tmp_path / 'home'), 'PGSEG_CACHE': str(tmp_path / 'cache')}
    legends = []
    with HubServer() as hub:
        hub.models = {'nvidia/groupvit-gcc-yfcc': Model(files_of(weights))}
        with serving(tmp_path, **variables, HF_ENDPOINT=hub.url) as address:
            legends.append(legend(browser, address, tmp_path / 'scene.png'))
        asked = len(hub.requests)
    assert asked
    with serving(tmp_path, **variables, HF_ENDPOINT=hub.url) as address:
        legends.append(legend(browser, address, tmp_path / 'scene.png'))
    assert legends[0] == legends[1] and 'dog' in legends[0]


def legend(browser, address: str, image: Path) -> str:
    """Classes and areas that the page shows for an image."""
    page = opened(browser, address)
    upload(page, image)
    segment(page, 'dog . grass')
    page.locator('#legend table').wait_for()
    text = page.locator('#legend table').inner_text()
    page.close()
    return text
