"""The model against numbers that the authors' release produced, for a small size.

``tools/analysis_tools/check_parity.py`` computes them again; here it is checked, too.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import check_parity
import parity_rules
from checkpoint_zoo import ARCHITECTURES, THREE_STAGES
from pgseg_mm.checkpoints import Architecture
from pgseg_mm.serialization.loading import CheckpointError
from prepared_processes import run_python

TOOL = Path(check_parity.__file__)
FILE = Path(__file__).parents[1] / 'data' / 'parity' / 'pgseg_tiny.npz'
NPR_FILE = FILE.with_name('npr_release.npz')
with np.load(FILE) as file:
    STORED = {name: file[name] for name in file.files}
META = json.loads(str(STORED.pop('meta')))


def write(path, arrays=STORED, meta=META):
    np.savez(path, meta=json.dumps(meta), **arrays)
    return path


@pytest.fixture(scope='module')
def model():
    return check_parity.ReleaseModel(META, STORED['class_embed'])


def test_every_number_of_the_release_agrees(capsys):
    assert check_parity.main([str(FILE), '--tolerance', '1e-5']) == 0
    shown = capsys.readouterr().out
    assert '28 of 28 keys agree' in shown
    assert all(f'\n{key} ' in shown for key in STORED)


def test_float32_agrees_within_the_published_tolerance(capsys):
    assert check_parity.main([str(FILE), '--dtype', 'float32']) == 0
    assert '28 of 28 keys agree' in capsys.readouterr().out


def test_a_device_that_is_not_there_is_no_failed_comparison(capsys):
    with pytest.raises(SystemExit) as leaving:
        check_parity.main([str(FILE), '--device', 'gpu0'])
    assert leaving.value.code == 2 and '--device gpu0 cannot be used' in capsys.readouterr().err


@pytest.mark.parametrize('key', STORED)
@torch.no_grad()
def test_one_value_changed_fails(model, key):
    kept = check_parity.compare(key, STORED[key], model, 1e-4)
    assert kept.passed
    for seed in range(3):
        array = STORED[key].copy()
        place = np.random.default_rng(seed).integers(array.size)
        other = (array.flat[place] + 1) % 3 if array.dtype == np.uint8 else array.flat[place] + 1e-3
        array.flat[place] = other
        assert not check_parity.compare(key, array, model, 1e-4).passed, place


@pytest.mark.parametrize('value', [np.nan, np.inf])
@torch.no_grad()
def test_what_is_no_number_fails(model, value):
    array = STORED['text_eot'].copy()
    array[0, 0] = value
    assert not check_parity.compare('text_eot', array, model, 1e-4).passed


@torch.no_grad()
def test_other_shapes_and_keys_fail(model):
    for key, array in (
        ('text_eot', STORED['text_eot'][:1]),
        ('seg/whole_bg0', STORED['seg/whole_bg0'][:, 1:]),
        ('train_res/assign_argmax_0', STORED['train_res/assign_argmax_0'][:0]),
        ('train_res/assign_soft_2', STORED['train_res/assign_soft_1']),
        ('train_res/centres', STORED['train_res/group_tokens']),
        ('seg/slide_logits_bg0_s4', STORED['seg/slide_logits_bg0_s8']),
        ('note', np.zeros(3)),
    ):
        assert not check_parity.compare(key, array, model, 1e-4).passed, key


@torch.no_grad()
def test_ties_of_a_class_map_are_excused_up_to_a_share(model):
    """Two classes with one embedding score alike everywhere."""
    embeds = STORED['class_embed'].copy()
    embeds[1] = embeds[0] = embeds[2]
    tied = check_parity.ReleaseModel(META, embeds)
    labels = tied.compute('seg/slide_bg0').labels.numpy().astype(np.uint8)
    first = np.argwhere(labels == 0)[:3]
    assert len(first) == 3
    one, three = labels.copy(), labels.copy()
    one[tuple(first[0])] = 1
    for place in first:
        three[tuple(place)] = 1
    limit = check_parity.MAX_SHARE_OF_TIES * labels.size
    assert 0 < limit < 1  # the image is small: not one pixel may differ
    assert not check_parity.compare('seg/slide_bg0', one, tied, 1e-4).passed
    compared = check_parity.compare('seg/slide_bg0', three, tied, 1e-4)
    assert (compared.difference, compared.remark[-3:]) == (3, 'tie')
    big = check_parity.compare_map(
        'seg/slide_bg0',
        three,
        torch.from_numpy(labels.astype(int)),
        tied.compute('seg/slide_bg0').gaps,
        max_share=3 / labels.size,
        tie=check_parity.TIES[torch.float64],
    )
    assert big.passed


def test_tool_exits_with_one_on_a_changed_file_and_two_on_a_bad_one(tmp_path):
    arrays = {name: array.copy() for name, array in STORED.items()}
    arrays['eval_res/pooled'][1, 7] += 2e-4
    changed = write(tmp_path / 'changed.npz', arrays)
    done = run_python([TOOL, changed, FILE])
    assert done.returncode == 1, done.stderr
    (failed,) = [line for line in done.stdout.splitlines() if 'FAILED' in line]
    assert failed.startswith('eval_res/pooled') and '2.00e-04' in failed
    assert '27 of 28 keys agree' in done.stdout and '28 of 28 keys agree' in done.stdout


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'colour': 'red'}, r"meta has keys that are not understood: \['colour'\]"),
        ({'weight_seed': None}, 'cannot be computed again'),
        ({'num_classes': 4}, 'class_embed has 6 rows, meta num_classes 4'),
        ({'config': {**META['config'], 'proj_num_layers': 3}}, 'proj_num_layers = 3'),
        ({'config': {**META['config'], 'depth': 3}}, 'config.depth = 3 is not understood'),
    ],
)
def test_meta_that_is_not_understood_is_refused(tmp_path, change, message):
    path = write(tmp_path / 'other.npz', meta={**META, **change})
    with pytest.raises(CheckpointError, match=message):
        check_parity.check_file(path)


def test_files_of_other_kinds_are_refused(tmp_path, capsys):
    for path, message in (
        (NPR_FILE, 'is about the NPR loss alone'),
        (TOOL, 'cannot be read as a .npz file'),
        (tmp_path / 'absent.npz', 'absent.npz does not exist'),
    ):
        assert check_parity.main([str(path)]) == 2
        assert message in capsys.readouterr().err
    np.savez(tmp_path / 'x.npz', a=np.zeros(2))
    with pytest.raises(CheckpointError, match='no meta'):
        check_parity.check_file(tmp_path / 'x.npz')
    lacking = {k: v for k, v in META.items() if k != 'crop'}
    with pytest.raises(CheckpointError, match='no crop'):
        check_parity.check_file(write(tmp_path / 'x.npz', meta=lacking))


def release_config(architecture: Architecture) -> dict:
    first = architecture.embed_dims[0]
    return {
        'img_encoder': {
            'type': 'PGSeg' if architecture.prototypes else 'GroupViT',
            'img_size': architecture.img_size[0],
            'patch_size': architecture.patch_size,
            'in_chans': architecture.in_channels,
            'embed_dim': first,
            'embed_factors': [width / first for width in architecture.embed_dims],
            'num_heads': list(architecture.num_heads),
            'depths': list(architecture.depths),
            'num_group_tokens': list(architecture.num_group_tokens),
            'num_output_groups': list(architecture.num_output_groups),
            'mlp_ratio': architecture.mlp_ratio,
        },
        'text_encoder': {
            'context_length': architecture.context_length,
            'width': architecture.text_dims,
            'layers': architecture.text_layers,
            'vocab_size': architecture.vocab_size,
        },
        'output_dim': architecture.output_dims,
    }


@pytest.mark.parametrize('name', ARCHITECTURES)
@torch.no_grad()
def test_files_of_other_sizes(tmp_path, name):
    """Written from our own numbers: that every kind of size is understood, not that it agrees."""
    architecture = ARCHITECTURES[name]
    channels = architecture.in_channels
    meta = {
        **META,
        'config': release_config(architecture),
        'weight_seed': 5,
        'image_shape': [3, channels, 53, 35],  # rows and columns that do not fill a patch
        'eot_id': architecture.vocab_size - 2,
        'num_texts': 4,
        'num_classes': 3,
        'crop': [32, 24],
        'stride': 20,
    }
    embeds = np.random.default_rng(0).standard_normal((3, architecture.output_dims))
    embeds /= np.linalg.norm(embeds, axis=1, keepdims=True)
    model = check_parity.ReleaseModel(meta, embeds.astype(np.float32))
    built = check_parity.architecture_of_release_config(meta['config'])
    assert built.embed_dims == architecture.embed_dims
    assert built.hidden_channels == 4096
    stages = len(architecture.num_output_groups)
    keys = [key for key in STORED if key != 'class_embed' and not key.endswith(('_0', '_1'))]
    keys += [f'train_res/assign_argmax_{i}' for i in range(stages)]
    keys += [f'eval_res/assign_soft_{i}' for i in range(stages)]
    if architecture.prototypes:
        keys += [f'eval_res/prototypes_{i}' for i in range(stages)]
    arrays = {'class_embed': embeds.astype(np.float32)}
    for key in keys:
        value = model.compute(key)
        if isinstance(value, check_parity.ClassMap):
            arrays[key] = value.labels.numpy().astype(np.uint8)
        elif 'argmax' in key:
            arrays[key] = value.argmax(1).numpy().astype(np.uint8)
        else:
            arrays[key] = value.numpy().astype(np.float32)
    assert arrays['eval_res/group_tokens'].shape[0] == 3
    comparisons = check_parity.check_file(write(tmp_path / 'x.npz', arrays, meta))
    assert len(comparisons) == len(arrays)
    assert all(c.passed for c in comparisons), check_parity.comparison_table(comparisons)
    # the seed makes the weights
    other = check_parity.check_file(write(tmp_path / 'x.npz', arrays, {**meta, 'weight_seed': 6}))
    assert sum(not c.passed for c in other) > len(other) / 2


def test_weights_follow_the_release_s_names():
    """The nested projector of differing widths has its own seeds."""
    meta = {**META, 'config': release_config(THREE_STAGES), 'image_shape': [1, 1, 40, 40]}
    model = check_parity.ReleaseModel(meta, None).model
    name = 'img_encoder.layers.1.group_projector.2.weight'
    weight = parity_rules.weight(name, (128, 64), META['weight_seed'])
    stored = model.backbone.stages[1].group_projector[3].weight
    assert np.array_equal(stored.detach().numpy(), weight)
