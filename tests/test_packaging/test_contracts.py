"""What users relied on before the package was rearranged is there, and does the same."""

import json
import lzma

import cv2
import numpy as np
import pytest
from mmengine.config import Config

import contracts
from killed_runs import make_pairs, train, write_config
from pgseg_mm.apis import PGSegInferencer

FOLDER = contracts.FILE.parent
SMALLER = (
    'model.backbone.embed_dims=12',
    'model.backbone.prototypes.hidden_channels=8',
    'model.decode_head.in_channels=12',
    'model.decode_head.hidden_channels=8',
)
EXPECTED = json.loads((FOLDER / 'runner_checkpoint.json').read_text())


@pytest.fixture(scope='module')
def known():
    return contracts.read()


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint after 9 of 16 iterations, as it was saved before."""
    path = tmp_path / 'work' / 'iter_9.pth'
    path.parent.mkdir()
    path.write_bytes(lzma.decompress((FOLDER / 'runner_checkpoint.pth.xz').read_bytes()))
    return path


@pytest.fixture
def config(tmp_path, monkeypatch):
    path = write_config(
        tmp_path / 'config.py',
        make_pairs(tmp_path / 'pairs'),
        workers=0,
        by_epoch=False,
        regions=False,
    )
    monkeypatch.syspath_prepend(path.parent)
    return path


def missing(known, found):
    return {name: sorted(set(known[name]) - set(found.get(name, []))) for name in known}


def assert_none_missing(known, found):
    assert missing(known, found) == {name: [] for name in known}


def test_registered_names(known):
    assert_none_missing(known['registered'], contracts.registered())


def test_exported_names(known):
    assert_none_missing(known['exported'], contracts.exported())


def test_paths_of_configs(known):
    assert set(known['configs']) <= set(contracts.files('configs'))


def test_paths_and_flags_of_tools(known):
    assert_none_missing(known['tools'], contracts.tools())


@pytest.mark.parametrize('config', sorted(contracts.read()['weights']))
def test_keys_of_weights(known, config):
    expected = known['weights'][config]
    if isinstance(expected, str):  # that of another config
        expected = known['weights'][expected]
    assert contracts.weight_shapes(config) == expected


def test_an_older_checkpoint_is_resumed(checkpoint, config, known):
    work_dir = checkpoint.parent
    options = (*SMALLER, 'randomness.seed=3', 'default_hooks.logger.interval=1')
    done = train(config, work_dir, '--resume', '--cfg-options', *options)
    assert done.returncode == 0, done.stderr[-2000:]
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    steps = {str(line['step']): line for line in map(json.loads, log.read_text().splitlines())}
    assert steps.keys() == EXPECTED['losses'].keys()
    for step, losses in EXPECTED['losses'].items():
        found = {name: steps[step][name] for name in losses}
        assert found == pytest.approx(losses, rel=1e-4), step  # other processors round otherwise
    written = contracts.checkpoint_layout(work_dir / 'iter_16.pth')
    assert written == known['checkpoint']


def test_an_older_checkpoint_predicts_alike(checkpoint, config, tmp_path):
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({name: int(value) for name, value in (o.split('=') for o in SMALLER)})
    cfg.model.test_cfg.pamr = None  # the config has got it since
    model = PGSegInferencer(cfg, str(checkpoint), device='cpu')
    image = cv2.imread(str(tmp_path / 'pairs' / '0.png'))
    classes = ['picture', 'thing', 'of', '7']
    (result,) = model(image, classes=classes, background=False, scores='dense')
    with np.load(FOLDER / 'prediction.npz') as expected:
        assert result.scores == pytest.approx(expected['scores'], abs=1e-5)
        assert (result.mask == expected['mask']).mean() > 0.999
        assert len(np.unique(expected['mask'])) > 1
