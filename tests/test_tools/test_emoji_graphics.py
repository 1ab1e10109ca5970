"""What the graphics of emoji scenes look like, and where they lie."""

from __future__ import annotations

import colorsys
import importlib
import importlib.util
import re

import numpy as np
import pytest

from emoji_runs import MISSING

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f'not installed: {", ".join(MISSING)}')


def hue(pixels: np.ndarray) -> float:
    """Circular mean hue, 0 to 1, of the coloured ones of (N, 3) RGB pixels."""
    hues = []
    for pixel in pixels:
        h, s, v = colorsys.rgb_to_hsv(*(pixel / 255.0))
        if s > 0.15 and v > 0.3:
            hues.append(h)
    assert hues
    return float(np.angle(np.mean(np.exp(2j * np.pi * np.array(hues)))) / (2 * np.pi) % 1)


def test_hue_stays(tool, tmp_path):
    settings, _ = tool.parse_args([str(tmp_path / 'x'), '--max-objects', '1', '--image-size', '64'])
    composer = tool.Composer(settings)
    checked = 0
    for index in range(40):
        scene = composer.scene(0, index)
        if not scene.placed:
            continue
        cls = composer.vocabulary.objects[scene.placed[0].label]
        if cls.name not in ('red apple', 'banana', 'frog', 'grapes', 't-shirt', 'basketball'):
            continue
        glyph = np.asarray(composer.glyph(cls.stem)).reshape(-1, 4)
        expected = hue(glyph[glyph[:, 3] == 255][::7, :3])
        found = hue(scene.image[scene.labels == scene.placed[0].label])
        assert abs((found - expected + 0.5) % 1 - 0.5) < 0.03, cls.name
        checked += 1
    assert checked >= 5


def test_brighten_keeps_the_ratios_of_the_channels(tool):
    render = importlib.import_module('emoji_scene_render')
    colours = np.array([[[250, 125, 50], [100, 50, 20]]], dtype=np.uint8)
    bright = render.brighten(colours, 1.15).astype(float)
    np.testing.assert_allclose(bright[0, 0], [255, 127.5, 51], atol=0.6)
    np.testing.assert_allclose(bright[0, 1], [115, 57.5, 23], atol=0.6)
    dark = render.brighten(colours, 0.8).astype(float)
    np.testing.assert_allclose(dark, colours * 0.8, atol=0.6)


def hidden_shares(composer, number: int) -> list[float]:
    shares = []
    for index in range(number):
        scene = composer.scene(0, index)
        for placed, area in zip(scene.placed, scene.areas, strict=True):
            shares.append(1 - np.count_nonzero(scene.labels == placed.label) / area)
    return shares


def test_overlap_is_limited(tool, tmp_path, monkeypatch):
    render = importlib.import_module('emoji_scene_render')
    settings, _ = tool.parse_args(
        [str(tmp_path / 'x'), '--image-size', '48', '--object-count-weights', '0', '0', '0', '1']
    )
    composer = tool.Composer(settings)
    shares = hidden_shares(composer, 30)
    assert len(shares) > 80  # nearly all the objects found room
    assert 0.05 < max(shares) <= 0.3 + 1e-9
    monkeypatch.setattr(render, 'MIN_VISIBLE', 0.0)
    assert max(hidden_shares(composer, 30)) > 0.5


def test_objects_lie_inside(tool, tmp_path):
    settings, _ = tool.parse_args(
        [
            str(tmp_path / 'x'),
            '--max-objects',
            '1',
            '--image-size',
            '64',
            '--object-scale',
            '0.5',
            '0.5',
        ]
    )
    composer = tool.Composer(settings)
    for index in range(40):
        scene = composer.scene(0, index)
        if not scene.placed:
            continue
        rows, columns = np.nonzero(scene.labels == scene.placed[0].label)
        longer = max(np.ptp(rows), np.ptp(columns)) + 1
        assert 25 <= longer <= 44  # a side of 32, turned by up to 25 degrees


def test_textures_differ(tool, tmp_path):
    render = importlib.import_module('emoji_scene_render')
    words = importlib.import_module('emoji_scene_words')
    means = {}
    for texture in words.TEXTURES:
        crops = [
            np.asarray(render.render_texture(np.random.default_rng(i), texture, (32, 48)))
            for i in range(3)
        ]
        assert all(crop.shape == (32, 48, 3) for crop in crops)
        assert not np.array_equal(crops[0], crops[1])
        means[texture.name] = np.mean(crops, axis=(0, 1, 2))
    names = list(means)
    for i, one in enumerate(names):
        for two in names[:i]:
            assert np.linalg.norm(means[one] - means[two]) > 40, (one, two)


def test_every_graphic_renders(tool):
    render = importlib.import_module('emoji_scene_render')
    words = importlib.import_module('emoji_scene_words')
    names = [o.name for o in words.all_objects()]
    assert len(names) == len(set(names)) >= 1000
    assert all(re.fullmatch(r"[a-z0-9' -]+", name) for name in names)
    assert not set(names) & {t.name for t in words.TEXTURES}
    for cls in words.all_objects():
        glyph = render.render_glyph(cls.stem, 48)
        assert np.mean(np.asarray(glyph)[..., 3] > 127) > 0.05, cls.name


def test_left_and_right_are_not_mirrored(tool):
    words = importlib.import_module('emoji_scene_words')
    mirrors = {o.name: o.mirrors for o in words.all_objects()}
    assert not mirrors['backhand index pointing left'] and not mirrors['stop sign']
    assert mirrors['dog']
