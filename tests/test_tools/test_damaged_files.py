"""Damaged, missing and coloured files of evaluation: what tools/test.py and a validation say."""

import runpy
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.messages import shown

TOOLS = Path(__file__).parents[2] / 'tools'
CLASSES = ('background', 'apple', 'dog', 'grass')
PALETTE = [[0, 0, 0], [200, 60, 60], [60, 60, 200], [60, 160, 60]]
SIZE = (40, 56)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A config on two images, with a checkpoint beside it."""
    rng = np.random.default_rng(0)
    for name in ('a', 'b'):
        for kind, high, shape in (('images', 256, (*SIZE, 3)), ('labels', 4, SIZE)):
            (tmp_path / kind).mkdir(exist_ok=True)
            pixels = rng.integers(0, high, shape, np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f'{name}.png')
    torch.save(dict(state_dict=tiny_model().state_dict()), tmp_path / 'tiny.pth')
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='.png',
        metainfo=dict(classes=CLASSES, palette=PALETTE),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(2048, 32), keep_ratio=True),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    )
    cfg = dict(
        _base_=[str(TOOLS.parent / 'configs/_base_/default_runtime.py')],
        model=tiny_model_cfg(),
        test_dataloader=dict(
            batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset
        ),
        test_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
        test_cfg=dict(type='TestLoop'),
        custom_hooks=[dict(type='VocabularyHook')],
        tta_model=dict(type='PGSegTTAModel'),
        tta_pipeline=[
            dict(type='LoadImageFromFile'),
            dict(
                type='TestTimeAug',
                transforms=[
                    [dict(type='Resize', scale=(2048, 32), keep_ratio=True)],
                    [dict(type='LoadAnnotations')],
                    [dict(type='PackSegInputs')],
                ],
            ),
        ],
    )
    Config(cfg).dump(str(tmp_path / 'config.py'))
    return tmp_path


@pytest.fixture
def run(root, monkeypatch):
    """Run tools/test.py; what it exits with, or None."""

    def run_tool(*args):
        with (root / 'config.py').open('a') as config:  # loggers are global by this name
            config.write(f"experiment_name = 'run_{time.time_ns()}'\n")
        command = [
            str(root / 'config.py'),
            str(root / 'tiny.pth'),
            '--work-dir',
            str(root / 'work'),
        ]
        monkeypatch.setattr(sys, 'argv', ['test.py', *command, *map(str, args)])
        try:
            runpy.run_path(str(TOOLS / 'test.py'), run_name='__main__')
        except SystemExit as stop:
            return str(stop.code)
        return None

    return run_tool


@pytest.fixture
def logged(root):
    """The last line of the latest run's log that holds a text."""

    def line_with(text):
        log = max(root.glob('work/*/*.log'))
        # runs of the same second share a log
        line = [line for line in log.read_text().splitlines() if text in line][-1]
        return line.partition('- INFO -')[2].partition('data_time')[0] or line

    return line_with


DAMAGE = {
    'empty': (lambda content: b'', 'it is empty'),
    'truncated': (lambda content: content[: len(content) // 2], 'cannot be used: '),
    'a web page': (lambda content: b'<!DOCTYPE html><html>', 'it is a web page'),
    'a pointer': (lambda content: b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
    'gone': (None, 'does not exist'),
}


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('folder', ['images', 'labels'])
@pytest.mark.parametrize('kind', DAMAGE)
def test_a_damaged_file_is_named_with_its_data_set(root, run, folder, kind, workers):
    if (workers and kind != 'truncated') or (kind, folder) == ('gone', 'images'):
        pytest.skip('one kind is enough; images are listed')
    change, message = DAMAGE[kind]
    path = root / folder / 'b.png'
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    said = run('--cfg-options', f'test_dataloader.num_workers={workers}')

    assert said is not None
    assert said.startswith('error: The ') and shown(path) in said and 'BaseSegDataset' in said
    assert message in said
    assert 'Traceback' not in said and len(said) < 600


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('metric', ['IoUMetric', 'ZeroShotIoUMetric'])
@pytest.mark.parametrize(
    ('labels', 'message'),
    [
        (np.zeros((5, 6), np.uint8), 'it is of (5, 6) pixels (height, width) and its image of'),
        (np.full((5, 6), 300, np.uint16), 'it has the label 300, and labels of 8 bits are'),
    ],
)
def test_a_label_map_of_another_image_is_named(root, run, labels, message, metric, workers):
    path = root / 'labels' / 'b.png'
    Image.fromarray(labels).save(path)
    said = run(
        '--cfg-options',
        f'test_dataloader.num_workers={workers}',
        f'test_evaluator.type={metric}',
    )

    assert said is not None and said.startswith('error: The label map ')
    assert shown(path) in said and message in said


def test_a_label_of_no_class_is_named_with_its_file(root, run):
    path = root / 'labels' / 'b.png'
    Image.fromarray(np.full_like(np.asarray(Image.open(path)), 77)).save(path)
    said = run('--cfg-options', 'test_evaluator.type=ZeroShotIoUMetric')

    assert said is not None and said.startswith(f'error: the label map {path} of ')
    assert 'has the label 77, which is neither one of' in said


def test_a_truncated_jpeg_is_not_filled_with_grey(root, run):
    path = root / 'images' / 'b.png'
    pixels = np.random.default_rng(0).integers(0, 255, (400, 560, 3), np.uint8)
    Image.fromarray(pixels).save(path, 'JPEG')
    path.write_bytes(path.read_bytes()[:20000])

    assert 'is cut off: the end of the JPEG image is missing' in run()


def test_no_permission_is_no_damage(root, run, monkeypatch):
    def denied(path, *_):
        raise PermissionError(13, 'Permission denied', path)

    monkeypatch.setattr('pgseg_mm.files.reading.read_regular', denied)
    said = run()

    assert '[Errno 13] Permission denied' in said and 'cannot be used' not in said


def colour(root, name, colours=PALETTE):
    path = root / 'labels' / f'{name}.png'
    labels = np.asarray(Image.open(path))
    Image.fromarray(np.array(colours, np.uint8)[labels]).save(path)


@pytest.mark.parametrize('tta', [[], ['--tta']])
def test_label_maps_in_colours_are_those_of_the_palette(root, run, logged, tta):
    assert run(*tta) is None
    expected = logged('mIoU: ')
    for name in ('a', 'b'):
        colour(root, name)
    assert run(*tta) is None

    assert 'mIoU: ' in expected
    assert logged('mIoU: ') == expected


def test_a_colour_that_is_not_in_the_palette_is_named_with_its_file(root, run):
    colour(root, 'b', [*PALETTE[:3], [1, 2, 3]])
    said = run()

    assert 'labels/b.png' in said and 'its colour (1, 2, 3) is not in the palette' in said
    assert len(said) < 600


def test_a_colour_of_several_classes_is_named_with_them(root, run):
    """Palettes of many classes have some twice."""
    palette = [*PALETTE[:3], PALETTE[1]]
    config = Config.fromfile(root / 'config.py')
    config.test_dataloader.dataset.metainfo.palette = palette
    config.dump(str(root / 'config.py'))
    colour(root, 'b', palette)
    said = run()
    assert 'its colour (200, 60, 60) is that of several classes, 1 (apple) and 3 (grass)' in said


@pytest.mark.parametrize('prefix', ['labels', None])
@pytest.mark.parametrize('out', [False, True])
def test_a_test_set_without_labels_is_predicted(root, run, logged, prefix, out):
    for path in (root / 'labels').iterdir():
        path.unlink()
    options = ['--out', root / 'out'] if out else []
    if prefix is None:
        options += ['--cfg-options', "test_dataloader.dataset.data_prefix={'img_path':'images'}"]
        config = (root / 'config.py').read_text().replace("seg_map_path='labels'", '')
        (root / 'config.py').write_text(config)
        options = options[:-2]

    assert run(*options) is None
    folder = root / ('out' if out else 'work/predictions')
    assert sorted(path.name for path in folder.iterdir()) == ['a.png', 'b.png']
    assert (
        f'has no label maps, so that nothing is measured; predictions are written to {folder}'
        in (logged('no label maps'))
    )
