"""demo/image_demo.py on images of all kinds."""

import argparse
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from model_zoo import tiny_model, tiny_model_cfg
from odd_images import BROKEN, SOUND, picture, write_odd_images
from pgseg_mm.apis.model_choice import add_model_choice

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a model and an image in it, where the command is run."""
    Config(dict(model=tiny_model_cfg())).dump(tmp_path / 'tiny.py')
    meta = dict(dataset_meta=dict(classes=('thing', 'stuff')))
    torch.save(dict(state_dict=tiny_model().state_dict(), meta=meta), tmp_path / 'tiny.pth')
    picture().save(tmp_path / 'a.png')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, image, *options) -> int:
    """Run the command and return its exit status."""
    words = ['image_demo.py', image, 'tiny.py', 'tiny.pth', '--device', 'cpu', *options]
    monkeypatch.setattr(sys, 'argv', list(map(str, words)))
    with pytest.raises(SystemExit) as leaving:
        runpy.run_path(str(ROOT / 'demo' / 'image_demo.py'), run_name='__main__')
    if isinstance(leaving.value.code, str):
        print(leaving.value.code, file=sys.stderr)
        return 1
    return leaving.value.code


@pytest.mark.parametrize('texts', ['dog . red car . grass', 'dog, red car, grass'])
def test_a_picture_in_a_file(place, monkeypatch, capsys, texts):
    assert run(monkeypatch, 'a.png', '--texts', texts, '--out-file', 'new/out.jpg') == 0
    shown = capsys.readouterr().out
    assert 'a.png: ' in shown and '%' in shown and f'Picture in {Path("new/out.jpg")}' in shown
    assert Image.open('new/out.jpg').format == 'JPEG'
    assert not Path('outputs').exists()


def test_help_and_missing_arguments(capsys):
    """Of both demos: argparse prints positional arguments with care only."""
    parser = argparse.ArgumentParser()
    add_model_choice(parser, named=False)
    assert 'the checkpoint, or a config and the checkpoint' in parser.format_help()
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert 'required: MODEL' in capsys.readouterr().err


def test_without_a_file_it_says_where_it_wrote(place, monkeypatch, capsys):
    assert run(monkeypatch, 'a.png') == 0
    assert 'Pictures in outputs/vis, masks in outputs/pred' in capsys.readouterr().out
    assert Path('outputs/vis/a.png').is_file()
    assert np.asarray(Image.open('outputs/pred/a.png')).shape == (30, 40)
    assert Path('outputs/classes.txt').read_text() == 'thing\nstuff\n'


def test_vocabulary_background_and_settings(place, monkeypatch):
    options = ['--vocabulary', 'voc21', '--threshold', '0.5', '--groups', '--batch-size', '2']
    assert run(monkeypatch, 'a.png', *options) == 0
    assert Path('outputs/classes.txt').read_text().startswith('background\naeroplane')
    assert run(monkeypatch, 'a.png', '--vocabulary', 'voc21', '--no-background') == 0
    assert Path('outputs-2/classes.txt').read_text().startswith('aeroplane')
    assert run(monkeypatch, 'a.png', '--texts', 'dog . cat', '--naming', 'mixture', '--pamr') == 0
    options = ['--texts', 'dog . cat', '--background', '--cfg-options', 'model.templates=openai80']
    assert run(monkeypatch, 'a.png', *options) == 0
    assert Path('outputs-4/classes.txt').read_text() == 'background\ndog\ncat\n'


def test_a_folder_is_gone_through_and_its_failures_are_reported(place, monkeypatch, capsys):
    folder = write_odd_images(place / 'odd')
    options = ['--out-dir', 'seen', '--batch-size', '3', '--max-pixels', '10000000']
    assert run(monkeypatch, folder, '--texts', 'dog . cat', *options) == 1
    shown = capsys.readouterr().out
    assert shown.count('failed: ') == len(BROKEN) and 'text.jpg cannot be read as an image' in shown
    assert len(list((place / 'seen' / 'vis').iterdir())) == len(SOUND)


@pytest.mark.parametrize(
    ('image', 'options', 'message'),
    [
        ('absent.png', [], 'error: absent.png does not exist'),
        ('tiny.py', [], 'error: tiny.py cannot be read as an image'),
        ('.', ['--out-file', 'x.png'], '--out-file is for a single image'),
        ('a.png', ['--out-file', 'x.doc'], '--out-file must end in'),
        ('a.png', ['--texts', 'dog,,cat'], 'error: There is no word between two separators'),
        ('a.png', ['--texts', 'dog . dog'], "error: 'dog' stands in"),
        ('a.png', ['--vocabulary', 'absent'], 'error: Vocabulary file absent does not exist'),
        ('a.png', ['--no-background', '--threshold', '0.5'], 'error: A threshold finds'),
        ('a.png', ['--out-file', 'x.png', '--out-dir', 'x'], '--out-dir: not allowed with'),
        ('a.png', ['--out-file', 'x.xbm'], '--out-file must end in'),
        ('a.png', ['--max-pixels', '-3'], '--max-pixels: expected a whole number of at least 1'),
    ],
)
def test_errors_are_sentences(place, monkeypatch, capsys, image, options, message):
    assert run(monkeypatch, image, *options) in (1, 2)
    shown = capsys.readouterr().err
    assert message in shown and 'Traceback' not in shown


@pytest.mark.parametrize(
    ('image', 'options', 'message'),
    [
        ('absent.png', [], 'absent.png does not exist'),
        ('a.png', ['--texts', 'dog,,cat'], 'no word between'),
        ('a.png', ['--vocabulary', 'absent'], 'file absent does not exist'),
        ('a.png', ['--out-file', 'x.doc'], '--out-file must end in'),
        ('a.png', ['--out-file', 'a.png/x.png'], '--out-file a.png cannot be written to'),
    ],
)
def test_mistakes_are_told_before_a_model_is_fetched(
    place, monkeypatch, capsys, image, options, message
):
    def fetched(*args):
        raise AssertionError('a model is read')

    monkeypatch.setattr('pgseg_mm.apis.model_choice.read_model_config', fetched)
    assert run(monkeypatch, image, *options) == 2
    assert message in capsys.readouterr().err


def test_a_folder_with_odd_names_is_gone_through(place, monkeypatch, capsys):
    folder = Path('pictures')
    folder.mkdir()
    names = [
        os.fsdecode(b'caf\xe9.png'),
        'a\nb\x1b[31m.png',
        'x' * 250 + '.bmp',
        'x' * 250 + '.png',
    ]
    for name in names:
        picture().save(folder / name)
    broken = os.fsdecode(b'caf\xe8.png')
    (folder / broken).write_bytes(b'no image')
    (folder / os.fsdecode(b'caf\xe7.txt')).write_bytes(b'')

    assert run(monkeypatch, 'pictures', '--out-dir', 'out') == 1
    said = capsys.readouterr()
    assert 'caf\\xe9.png: ' in said.out and 'a\\nb\\x1b[31m.png: ' in said.out
    assert 'failed: pictures/caf\\xe8.png cannot be read as an image' in said.out
    assert 'Traceback' not in said.err + said.out
    assert len(list(Path('out/pred').iterdir())) == 4


def test_tries_with_other_words_go_to_folders_of_their_own(place, monkeypatch, capsys):
    for words in ('dog . cat', 'tree', 'dog . cat', 'tree'):
        assert run(monkeypatch, 'a.png', '--texts', words) == 0
    assert 'Pictures in outputs-2/vis' in capsys.readouterr().out
    assert sorted(path.name for path in place.glob('outputs*')) == ['outputs', 'outputs-2']
    assert Path('outputs/classes.txt').read_text() == 'dog\ncat\n'
    assert run(monkeypatch, 'a.png', '--texts', 'a . b', '--out-dir', 'outputs') == 2
    assert 'outputs has results of other classes' in capsys.readouterr().err


def test_the_image_itself_is_not_written_over(place, monkeypatch, capsys):
    before = Path('a.png').read_bytes()
    Path('link.png').symlink_to('a.png')
    for name in ('a.png', './a.png', 'link.png'):
        assert run(monkeypatch, 'a.png', '--texts', 'dog', '--out-file', name) == 2
    assert 'is the image itself' in capsys.readouterr().err and Path('a.png').read_bytes() == before


@pytest.mark.parametrize(('encoding', 'folder'), [('utf-8', b'o\xe9'), ('latin-1', b'out')])
def test_names_that_a_terminal_cannot_print_are_escaped(place, encoding, folder):
    command = [sys.executable, ROOT / 'demo/image_demo.py', 'a.png', 'tiny.py', 'tiny.pth']
    words = ['--texts', '\u0434\u043e\u043c . grass', '--out-dir', os.fsdecode(folder)]
    env = {**os.environ, 'PYTHONIOENCODING': encoding, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run([*command, *words], env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert b'Pictures in ' in done.stdout
