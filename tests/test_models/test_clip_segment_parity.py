"""Images to class maps against what the public segmentors of three methods on CLIP produced."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import check_parity
import parity_rules
from clip_parity_features import model_folder
from clip_parity_postprocess import unit_rows
from clip_parity_segment import SegmentedImages
from clip_reference import Reference
from pgseg_mm.models import CLIPDenseViT
from pgseg_mm.serialization.loading import CheckpointError

FILE = Path(__file__).parents[1] / 'data' / 'parity' / 'clip_segment.npz'
with np.load(FILE) as file:
    STORED = {name: file[name] for name in file.files}
META = json.loads(str(STORED.pop('meta')))


def write(path: Path, arrays: dict = STORED, meta: dict = META) -> Path:
    np.savez(path, meta=json.dumps(meta), **arrays)
    return path


@pytest.mark.parametrize(('dtype', 'tolerance'), [('float64', '1e-7'), ('float32', '1e-4')])
def test_every_number_agrees(capsys, dtype, tolerance):
    assert check_parity.main([str(FILE), '--dtype', dtype, '--tolerance', tolerance]) == 0
    shown = capsys.readouterr().out
    assert f'{len(STORED)} of 24 keys agree' in shown
    if dtype == 'float64':  # float32 rounds by processor, and may leave a tie
        assert shown.count('100.0000 % equal') == 12 and 'tie' not in shown


@torch.no_grad()
def test_one_value_changed_fails():
    """Of a map, the best class of a pixel becomes another; of scores, one moves by 2e-4."""
    model = SegmentedImages(META, 'cpu', torch.float64)
    rng = np.random.default_rng(0)
    for key, array in STORED.items():
        value = model.compute(key)
        model.compute = lambda _, value=value: value  # once is enough for both comparisons
        assert check_parity.compare(key, array, model, 1e-4).passed
        changed = array.copy()
        place = rng.integers(array.size)
        if key.endswith('/map'):
            changed.flat[place] = (array.flat[place] + 1) % 4
        else:
            changed.flat[place] += 2e-4
        assert not check_parity.compare(key, changed, model, 1e-4).passed, key
        del model.compute


@torch.no_grad()
def test_unknown_keys_and_other_metas_are_refused(tmp_path):
    model = SegmentedImages(META, 'cpu', torch.float64)
    for key in (
        'slide/gem/map',
        'slice/sclip/map',
        'slide/sclip/mask',
        'slide',
        'whole/sclip_x/map',
    ):
        assert 'unknown key' in check_parity.compare(key, np.zeros(3), model, 1e-4).remark
    for change, message in (
        ({'colour': 'red'}, r"not understood: \['colour'\]"),
        ({'act': 'relu'}, 'act must be quick_gelu or gelu'),
        ({'word_classes': [0, 0, 2, 2, 2, 3, 3]}, 'word_classes must be 0, 1, 2'),
    ):
        path = write(tmp_path / 'other.npz', STORED, {**META, **change})
        with pytest.raises(CheckpointError, match=message):
            check_parity.check_file(path)


OTHER = {
    'width': 24,
    'layers': 2,
    'heads': 3,
    'patch_size': 8,
    'image_size': 32,
    'output_dim': 20,
    'act': 'gelu',
    'weight_seed': 5,
    'cell': 9,
    'text_seed': 9,
    'word_classes': [1, 0, 0, 2, 1],  # not in order
    'logit_scale': 25,
    'prob': 0.35,
    'cases': {
        'one': {'image': [37, 50], 'crop': 0, 'stride': 0, 'original': [60, 41], 'seed': 7},
        'many': {'image': [44, 61], 'crop': 30, 'stride': 13, 'original': [44, 61], 'seed': 8},
    },
}


def plain_scores(image: torch.Tensor, method: str, case: dict, encode, texts) -> torch.Tensor:
    """(words, H, W), from features (h, w, D) of windows by ``encode``; nothing of the package."""
    height, width = case['image']
    crop = case['crop'] or max(height, width)
    starts = []
    for side in (height, width):
        step, rest = case['stride'] or side, max(side - crop, 0)
        starts.append([min(start, rest) for start in range(0, rest + step, step)])
    total = torch.zeros(len(texts), height, width, dtype=torch.float64)
    count = torch.zeros(height, width)
    for top in starts[0]:
        for left in starts[1]:
            part = image[:, top : top + crop, left : left + crop]
            size = part.shape[1:]
            before, after = [0, 0], [0, 0]
            if method == 'clearclip':
                padding = [-side % OTHER['patch_size'] for side in size]
                before, after = [p // 2 for p in padding], [p - p // 2 for p in padding]
                part = F.pad(part, (before[1], after[1], before[0], after[0]))
            features = F.normalize(torch.from_numpy(encode(part.numpy(), method)), dim=-1)
            scores = torch.einsum('hwd,kd->khw', features, texts)[None]
            if method == 'sclip' and not case['crop']:
                return F.interpolate(scores, size=case['original'], mode='bilinear')[0]
            scores = F.interpolate(scores, size=part.shape[1:], mode='bilinear')[0]
            scores = scores[:, before[0] :, before[1] :][:, : size[0], : size[1]]
            total[:, top : top + crop, left : left + crop] += scores
            count[top : top + crop, left : left + crop] += 1
    return F.interpolate((total / count)[None], size=case['original'], mode='bilinear')[0]


def test_files_of_other_sizes(tmp_path):
    """Written by formulas in numpy and plain interpolation: other towers, words, sizes, seeds."""
    with model_folder(OTHER) as name:
        entries = CLIPDenseViT(name).tower.state_dict()
    weights = {
        name: parity_rules.clip_weight(f'visual.{name}', tuple(value.shape), 5)
        for name, value in entries.items()
    }
    reference = Reference(weights, OTHER['heads'], quick_gelu=False)
    texts = torch.from_numpy(unit_rows(9, (5, 20)))
    arrays = {}
    for name, case in OTHER['cases'].items():
        image = parity_rules.image(case['seed'], (1, 3, *case['image']), OTHER['cell'])[0]
        for method in ('sclip', 'naclip', *['clearclip'] * bool(case['crop'])):
            scores = plain_scores(
                torch.from_numpy(image),
                method,
                case,
                lambda part, method: reference.features(part, method, offset=0.1),
                texts,
            )
            words = (25 * scores).softmax(0)
            classes = torch.stack([words[[1, 2]].amax(0), words[[0, 4]].amax(0), words[3]])
            labels = classes.argmax(0).masked_fill(classes.amax(0) < 0.35, 0)
            assert len(labels.unique()) > 1
            arrays[f'{name}/{method}/scores_s5'] = scores[:, 2::5, 2::5].float().numpy()
            arrays[f'{name}/{method}/map'] = labels.byte().numpy()
    path = write(tmp_path / 'x.npz', arrays, OTHER)
    comparisons = check_parity.check_file(path, tolerance=1e-6)
    assert len(comparisons) == 10
    assert all(c.passed for c in comparisons), check_parity.comparison_table(comparisons)
    seeded = check_parity.check_file(write(tmp_path / 'x.npz', arrays, {**OTHER, 'text_seed': 7}))
    assert not any(c.passed for c in seeded)
