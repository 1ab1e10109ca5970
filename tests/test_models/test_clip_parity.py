"""Dense features of CLIP against numbers that the public code of five methods produced."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import check_parity
import parity_rules
from clip_parity_features import FEATURES, ClipTower
from clip_reference import Reference
from pgseg_mm.serialization.loading import CheckpointError

FILE = Path(__file__).parents[1] / 'data' / 'parity' / 'clip_features.npz'
with np.load(FILE) as file:
    STORED = {name: file[name] for name in file.files}
META = json.loads(str(STORED.pop('meta')))
FAR = 3e-4


@pytest.fixture(scope='module')
def tower() -> ClipTower:
    return ClipTower(META, 'cpu', torch.float64)


def write(path: Path, arrays: dict = STORED, meta: dict = META) -> Path:
    np.savez(path, meta=json.dumps(meta), **arrays)
    return path


@pytest.mark.parametrize(('dtype', 'tolerance'), [('float64', '1e-6'), ('float32', '1e-4')])
def test_every_number_agrees(capsys, dtype, tolerance):
    assert check_parity.main([str(FILE), '--dtype', dtype, '--tolerance', tolerance]) == 0
    shown = capsys.readouterr().out
    assert '82 of 82 keys agree' in shown
    assert len(STORED) == 82 and all(f'\n{key} ' in shown for key in STORED)


@torch.no_grad()
def test_one_value_changed_fails(tower):
    rng = np.random.default_rng(0)
    for key in STORED:
        assert check_parity.compare(key, STORED[key], tower, 1e-4).passed
        array = STORED[key].copy()
        array.flat[rng.integers(array.size)] += FAR
        assert not check_parity.compare(key, array, tower, 1e-4).passed, key


@torch.no_grad()
def test_other_shapes_sizes_and_keys_fail(tower):
    clip = STORED['64x64/clip']
    for key, array in (
        ('64x64/clip', clip[:1]),
        ('64x64/clip', STORED['80x112/clip']),
        ('48x48/clip', clip),
        ('64x64/gem', clip),
        ('clip', clip),
        ('80x112/proxyclip_same', STORED['80x112/clip']),
    ):
        assert not check_parity.compare(key, array, tower, 1e-4).passed, key


def test_tool_exits_with_one_on_a_changed_file(tmp_path, capsys):
    arrays = {key: STORED[key] for key in ('64x64/naclip', '64x64/proxyclip_same')}
    arrays['70x100/sclip'] = STORED['70x100/sclip'].copy()
    arrays['70x100/sclip'][1, 3, 5, 7] += 2e-4
    assert check_parity.main([str(write(tmp_path / 'changed.npz', arrays))]) == 1
    shown = capsys.readouterr().out
    assert '2 of 3 keys agree' in shown and '70x100/sclip' in shown.split('FAILED')[0]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'colour': 'red'}, r"not understood: \['colour'\]"),
        ({'act': 'relu'}, 'act must be quick_gelu or gelu'),
        ({'heads': None}, 'cannot be computed again'),
    ],
)
def test_meta_that_is_not_understood_is_refused(tmp_path, change, message):
    path = write(tmp_path / 'other.npz', {'64x64/clip': STORED['64x64/clip']}, {**META, **change})
    with pytest.raises(CheckpointError, match=message):
        check_parity.check_file(path)


def test_meta_must_be_whole(tmp_path):
    lacking = {key: value for key, value in META.items() if key != 'cell'}
    path = write(tmp_path / 'other.npz', {'64x64/clip': STORED['64x64/clip']}, lacking)
    with pytest.raises(CheckpointError, match=r"lacks: \['cell'\]"):
        check_parity.check_file(path)


def reference_arguments(key: str) -> tuple[str, dict]:
    """What the formulas in numpy call the arguments of a key."""
    settings = {'pos_embed': 'offset', **FEATURES[key]}
    offset = 0.1 if settings['pos_embed'] == 'offset' else 0.0
    kwargs = {'residual': settings.get('residual'), 'std': settings.get('gaussian_std')}
    return settings['attention'], {'offset': offset, **kwargs}


@pytest.mark.parametrize(
    'other',
    [
        dict(width=48, layers=2, heads=3, patch_size=8, image_size=32, output_dim=20),
        dict(width=24, layers=3, heads=1, patch_size=14, image_size=56, output_dim=36, act='gelu'),
    ],
    ids=['patch8', 'patch14'],
)
def test_files_of_other_sizes(tmp_path, other):
    """Written by the formulas in numpy: other widths, depths, heads, patches, sizes and seeds."""
    meta = {**META, **other, 'weight_seed': 7, 'image_seed': 8, 'cell': 12}
    meta['sizes'] = {'40x72': [40, 72], '56x30': [56, 30]}
    model = ClipTower(meta, 'cpu', torch.float64)
    entries = model._model('clip').tower.state_dict()
    weights = {
        name: parity_rules.clip_weight(f'visual.{name}', tuple(value.shape), 7)
        for name, value in entries.items()
    }
    reference = Reference(weights, meta['heads'], meta['act'] == 'quick_gelu')
    arrays = {}
    for size, (height, width) in meta['sizes'].items():
        images = parity_rules.image(8, (2, 3, height, width), 12)
        for key in ('clip', 'clip_tcl', 'maskclip_attn_only', 'sclip', 'clearclip', 'naclip_std2'):
            method, kwargs = reference_arguments(key)
            maps = [reference.features(image, method, **kwargs) for image in images]
            arrays[f'{size}/{key}'] = np.stack(maps).astype(np.float32)
    path = write(tmp_path / 'x.npz', arrays, meta)
    comparisons = check_parity.check_file(path, tolerance=2e-6)
    assert all(c.passed for c in comparisons), check_parity.comparison_table(comparisons)
    seeded = check_parity.check_file(write(tmp_path / 'x.npz', arrays, {**meta, 'weight_seed': 6}))
    assert not any(c.passed for c in seeded)
