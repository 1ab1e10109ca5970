"""What docs/inference.md shows is run at small size."""

import re
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from model_zoo import tiny_model, tiny_model_cfg
from odd_images import picture
from pages import ROOT, blocks, commands, read_page
from pgseg_mm.apis.model_choice import DEFAULT_MODEL

DOCS = read_page('docs/inference.md')


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with all that the text names in it."""
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(128, 32), keep_ratio=True),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ]
    Config(dict(model=tiny_model_cfg(), test_pipeline=pipeline)).dump(tmp_path / 'tiny.py')
    meta = dict(dataset_meta=dict(classes=('thing', 'stuff'), palette=[[0] * 3] * 2))
    torch.save(dict(state_dict=tiny_model().state_dict(), meta=meta), tmp_path / 'tiny.pth')
    (tmp_path / 'photos').mkdir()
    for name in ('photo.jpg', 'photos/a.jpg', 'photos/b.png'):
        picture().save(tmp_path / name)
    video = cv2.VideoWriter(
        str(tmp_path / 'street.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 5, (40, 30)
    )
    for _ in range(3):
        video.write(np.asarray(picture()))
    video.release()
    (tmp_path / 'demo').symlink_to(ROOT / 'demo')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def filled_in(text: str) -> str:
    return text.replace('CONFIG', 'tiny.py').replace('CHECKPOINT', 'tiny.pth')


def test_commands(place, monkeypatch):
    shown = commands(filled_in(DOCS))
    images = [words for words in shown if words[1] == 'demo/image_demo.py']
    assert len(images) == 3
    for words in images:
        monkeypatch.setattr(sys, 'argv', words[1:])
        with pytest.raises(SystemExit) as leaving:
            runpy.run_path(words[1], run_name='__main__')
        assert leaving.value.code == 0
    names = runpy.run_path(images[0][1])
    assert (place / 'out.png').is_file() and (place / 'outputs/vis/photo.png').is_file()
    assert sorted(path.name for path in (place / 'seen/pred').iterdir()) == ['a.png', 'b.png']
    (pip,) = [words for words in shown if words[0] == 'pip']
    extras = re.search(r'\[(.*)\]', pip[-1])[1].split(',')
    assert all((ROOT / 'requirements' / f'{extra}.txt').is_file() for extra in extras)
    # tests/test_packaging/test_command.py runs the command
    named = [words for words in shown if words[0] == 'pgseg']
    assert [words[1] for words in named] == ['segment', 'web']
    args = names['build_parser']('pgseg segment').parse_args(named[0][2:])
    assert (args.img, args.checkpoint, args.config) == (['photo.jpg'], DEFAULT_MODEL, None)
    assert f'takes a published model, `{DEFAULT_MODEL}`' in DOCS
    # tests/test_demo/test_web_demo.py looks at the page
    (web,) = [words for words in shown if words[1] == 'demo/web_demo.py']
    pytest.importorskip('gradio')
    monkeypatch.syspath_prepend(str(ROOT / 'demo'))
    args = runpy.run_path(web[1])['build_parser']().parse_args(web[2:])
    assert (args.host, args.port) == ('127.0.0.1', 7860)


def test_snippets(place, capsys):
    """One after another, as in one program."""
    names: dict = {}
    snippets = blocks(DOCS, 'python')
    assert len(snippets) == 4
    for snippet in snippets:
        exec(filled_in(snippet), names)
    assert names['dog'].shape == (30, 40)
    assert [result.name for result in names['results']] == ['photo.jpg', 'photos/a.jpg',
                                                           'photos/b.png']  # fmt: skip
    assert all(result.picture is not None and result.groups for result in names['results'])
    assert names['result'].name == '2' and names['result'].classes == ('road', 'car', 'sky')
    assert names['sample'].pred_sem_seg.data.shape == (1, 30, 40)
    assert '2 {' in capsys.readouterr().out


def test_what_the_text_says_of_defaults():
    from pgseg_mm.apis import inferencer

    known = inferencer.DEFAULT_THRESHOLDS
    assert f'else {known["affinity"]} for `affinity`' in DOCS
    assert known['logits'] == known['mixture'] and f'and {known["mixture"]} by' in DOCS
    assert f'{inferencer.MAX_PIXELS / 1e6:.0f} million' in DOCS
