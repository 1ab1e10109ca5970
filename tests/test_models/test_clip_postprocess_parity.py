"""Refinement and class maps against numbers that public code on CLIP features produced."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import check_parity
import clip_parity_postprocess

FOLDER = Path(__file__).parents[1] / 'data' / 'parity'
FILES = {name: FOLDER / f'clip_{name}.npz' for name in ('pamr', 'postprocess')}
KEYS = {'pamr': 10, 'postprocess': 141}


def read(name):
    with np.load(FILES[name]) as file:
        arrays = {key: file[key] for key in file.files}
    return arrays, json.loads(str(arrays.pop('meta')))


@pytest.mark.parametrize('dtype', ['float64', 'float32'])
@pytest.mark.parametrize('name', FILES)
def test_every_number_agrees(name, dtype, capsys):
    assert check_parity.main([str(FILES[name]), '--dtype', dtype]) == 0
    assert f'{KEYS[name]} of {KEYS[name]} keys agree' in capsys.readouterr().out


@pytest.mark.parametrize('name', FILES)
@torch.no_grad()
def test_one_value_changed_fails(name):
    arrays, meta = read(name)
    model = clip_parity_postprocess.model_of(meta, arrays, 'cpu', torch.float64)
    rng = np.random.default_rng(0)
    for key, array in arrays.items():
        changed = array.copy()
        place = rng.integers(array.size)
        if key == 'regions/ids':
            changed.flat[place] = 6
        elif array.dtype.kind == 'i':
            changed.flat[place] = (array.flat[place] + 1) % 3
        else:
            changed.flat[place] += 2e-4
        assert not check_parity.compare(key, changed, model, 1e-4).passed, key


@torch.no_grad()
def test_unknown_keys_are_named():
    for name in FILES:
        arrays, meta = read(name)
        model = clip_parity_postprocess.model_of(meta, arrays, 'cpu', torch.float64)
        for key in ('words/synonyms/best', 'slide/overlap/mean', 'a/mean', 'tcl/mask', 'e/refined'):
            compared = check_parity.compare(key, np.zeros(3), model, 1e-4)
            assert not compared.passed and 'unknown key' in compared.remark


@torch.no_grad()
def test_the_seeds_make_the_numbers():
    arrays, meta = read('pamr')
    meta['cases']['a']['logit_seed'] += 1
    model = clip_parity_postprocess.model_of(meta, arrays, 'cpu', torch.float64)
    assert not check_parity.compare('a/refined', arrays['a/refined'], model, 1e-4).passed
    assert check_parity.compare('d/refined', arrays['d/refined'], model, 1e-4).passed
