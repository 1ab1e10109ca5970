"""The photographs that the web page offers, and how they get among the uploads."""

import importlib
from pathlib import Path

import pytest

from pgseg_mm import limits
from pgseg_mm.apis import parse_words

pytest.importorskip('gradio')
DEMO = Path(__file__).parents[2] / 'demo'


@pytest.fixture
def module(monkeypatch):
    """Imports a module of the demo."""
    monkeypatch.syspath_prepend(str(DEMO))
    return importlib.import_module


def test_every_photograph_is_there_with_words_and_its_origin(module):
    examples = module('web_examples').EXAMPLES
    origins = (DEMO / 'examples' / 'README.md').read_text()
    assert len(examples) == 2
    for example in examples:
        file = DEMO / 'examples' / example.file
        assert 0 < file.stat().st_size < limits.MAX_WEB_FILE_BYTES
        assert f'`{example.file}`' in origins
        assert len(parse_words(example.words)) > 1  # one word alone takes every pixel
    assert 'CC0' in origins


def test_a_photograph_goes_the_way_of_an_upload(module, tmp_path, monkeypatch):
    uploads_module = module('web_uploads')
    photo = DEMO / 'examples' / 'cat.jpg'
    uploads = uploads_module.UploadFolder(tmp_path)
    try:
        first, second = uploads.add(photo), uploads.add(photo)
        assert first != second and uploads.read(first) == photo.read_bytes()
        monkeypatch.setattr(limits, 'MAX_WEB_UPLOAD_BYTES', 3 * photo.stat().st_size - 1)
        with pytest.raises(uploads_module.NoRoomError):
            uploads.add(photo)
    finally:
        uploads.close()
    assert photo.is_file() and not Path(first).exists()
