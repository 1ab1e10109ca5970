"""Every odd image has a result of its own size, or a clear error."""

import pickle
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from PIL import Image

from model_zoo import tiny_model
from odd_images import BROKEN, SOUND, odd_image, picture, write_odd_images
from pgseg_mm.apis import PGSegInferencer

ROOT = Path(__file__).parents[2]
WORDS = ['dog', 'red car', 'grass']
RESIZE = "dict(type='Resize', scale=(2048, 448), keep_ratio=True)"


@pytest.fixture(scope='module')
def inferencer():
    return PGSegInferencer(tiny_model(), max_pixels=10**7)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_odd_images(tmp_path_factory.mktemp('odd') / 'images')


@pytest.mark.parametrize('name', SOUND)
def test_a_result_of_the_size_that_viewers_show(inferencer, folder, name):
    (result,) = inferencer(folder / name, WORDS, groups=True, pictures=True)
    assert result.mask.shape == SOUND[name]
    assert result.picture.dtype == np.uint8


@pytest.mark.parametrize('name', BROKEN)
def test_an_error_that_says_which_file_and_why(inferencer, folder, name):
    with pytest.raises(ValueError, match=f'{name} .*{BROKEN[name]}'):
        inferencer(folder / name, WORDS)


def test_a_folder_is_gone_through_and_its_failures_are_reported(inferencer, folder):
    results = inferencer(folder, WORDS, batch_size=4, progress=False)
    sizes = {Path(r.path).name: r.mask.shape for r in results if r.error is None}
    errors = {Path(r.path).name: r.error for r in results.failures}
    assert sizes == SOUND and set(errors) == set(BROKEN)
    assert all(re.search(BROKEN[name], error) for name, error in errors.items())
    assert f'{len(SOUND)} of {len(results)} images segmented' in results.summary()


def reds_and_blues(image: np.ndarray) -> list[list[int]]:
    """Colours in the middle of the orange and of the blue half, RGB."""
    return [image[20, 10, ::-1].tolist(), image[20, 30, ::-1].tolist()]


@pytest.mark.parametrize(
    ('name', 'tolerance'),
    [
        ('rgba.png', 0),
        ('palette.png', 0),
        ('rgb16.png', 0),
        ('rgb16.tif', 0),
        ('cmyk.jpg', 12),
        ('cmyk.tif', 0),
        ('animated.gif', 0),
        ('animated.webp', 0),
    ],
)
def test_colours_are_those_of_the_picture(inferencer, folder, name, tolerance):
    found = reds_and_blues(inferencer.read(folder / name))
    expected = [[240, 120, 0], [0, 60, 200]]
    assert np.abs(np.subtract(found, expected)).max() <= tolerance


@pytest.mark.parametrize('name', ['grey.png', 'grey16.png', 'grey_alpha.png', 'grey_alpha.tif'])
def test_greys_are_those_of_the_picture(inferencer, folder, name):
    grey = np.asarray(picture().convert('L'))
    np.testing.assert_array_equal(inferencer.read(folder / name), np.stack([grey] * 3, axis=-1))


def test_an_image_is_turned_as_viewers_turn_it(inferencer, folder):
    turned = inferencer.read(folder / 'rotated.jpg')[..., ::-1].astype(int)
    upright = np.rot90(np.asarray(picture()).astype(int), -1)
    assert turned.shape == (40, 30, 3)
    assert np.abs(turned - upright).mean() < 6  # JPEG's loss


def test_the_limit_of_pixels_is_the_users(folder):
    with pytest.raises(ValueError, match='40 x 30 pixels, more than max_pixels=1199'):
        PGSegInferencer(tiny_model(), max_pixels=1199)(folder / 'rgba.png', WORDS)
    assert PGSegInferencer(tiny_model(), max_pixels=1200)(folder / 'rgba.png', WORDS)


CONFIG = """
_base_ = [{base!r}]
model = dict(
    backbone=dict(embed_dims=24, num_heads=3, depths=(1, 1), num_group_tokens=(6, 0)),
    decode_head=dict(in_channels=24),
    {test_cfg}
)
test_pipeline = [dict(type='LoadImageFromFile'), {resize}, {labels}dict(type='PackSegInputs')]
test_dataloader = dict(
    batch_size=1, num_workers=0, persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset', data_root={root!r}, img_suffix='.png', pipeline=test_pipeline,
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=('dog', 'cat', 'sky')),
    ),
)
test_evaluator = dict(_delete_=True, type='DumpResults', out_file_path={root!r} + '/results.pkl')
"""
BASE = ROOT / 'configs/pgseg/pgseg_tiny-p8_emoji-scenes-64x64.py'


@pytest.mark.parametrize(
    ('name', 'size', 'window'),
    [
        ('one_pixel', (1, 1), 'whole'),
        ('one_pixel', (1, 1), 'slide'),
        ('long', (20, 10000), 'slide'),
        ('tall', (10000, 20), 'slide'),
    ],
)
def test_tools_test_has_a_result_for_images_below_a_patch(
    tmp_path, monkeypatch, name, size, window
):
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    (tmp_path / 'images' / f'{name}.png').write_bytes(odd_image(f'{name}.png'))
    Image.fromarray(np.ones(size, np.uint8)).save(tmp_path / 'labels' / f'{name}.png')
    slide = "test_cfg=dict(mode='slide', crop_size=(448, 448), stride=(224, 224)),"
    resize = RESIZE if window == 'slide' else "dict(type='Resize', scale_factor=1.0)"
    # mmseg's loader of label maps squeezes those of one pixel
    labels = "dict(type='LoadAnnotations'), " * (min(size) > 1)
    text = CONFIG.format(
        base=str(BASE),
        root=str(tmp_path),
        resize=resize,
        labels=labels,
        test_cfg=slide * (window == 'slide'),
    )
    (tmp_path / 'odd.py').write_text(text)
    model = MODELS.build(Config.fromfile(tmp_path / 'odd.py').model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'odd.pth')
    words = ['test.py', tmp_path / 'odd.py', tmp_path / 'odd.pth', '--work-dir', tmp_path]
    monkeypatch.setattr(sys, 'argv', list(map(str, words)))
    runpy.run_path(str(ROOT / 'tools' / 'test.py'), run_name='__main__')
    (result,) = pickle.loads((tmp_path / 'results.pkl').read_bytes())
    mask = result['pred_sem_seg']['data']
    assert mask.shape == (1, *size) and mask.max() < 3
