"""Checkpoints made ready for others."""

import hashlib
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer

TOOL = Path(__file__).parents[2] / 'tools' / 'misc' / 'publish_model.py'
WEIGHTS = {'layer.weight': torch.arange(6.0).view(2, 3), 'mu': torch.ones(1, 2)}
LIVE = {name: value + 1 for name, value in WEIGHTS.items()}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / 'epoch_3.pth'
    content = {
        'state_dict': WEIGHTS,
        'ema_state_dict': {'steps': torch.tensor(7), **{f'module.{k}': LIVE[k] for k in LIVE}},
        'optimizer': {'state': {0: {'exp_avg': torch.zeros(2, 3)}}},
        'message_hub': {'log_scalars': {'loss': HistoryBuffer([1.0], [1])}},
        'meta': {
            'epoch': 3,
            'iter': 30,
            'cfg': 'model = dict()',
            'dataset_meta': {'classes': ('cat',), 'palette': [[0, 0, 0]]},
            'hook_msgs': {'last_ckpt': 'somewhere/epoch_2.pth'},
            'data_state': {'seed': 1},
        },
    }
    torch.save(content, path)
    return path


@pytest.fixture
def publish(monkeypatch, capsys):
    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, 'argv', ['publish_model.py', *map(str, arguments)])
        runpy.run_path(str(TOOL), run_name='__main__')
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(publish, capsys):
    """What is said of a checkpoint that should not be published."""

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as leaving:
            publish(*arguments)
        assert leaving.value.code == 2
        return capsys.readouterr().err

    return run


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_keeps_weights_and_what_using_them_takes(checkpoint, tmp_path):
    command = [sys.executable, TOOL, checkpoint, tmp_path / 'out' / 'model.pth']
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    path = only_file(tmp_path / 'out')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f'model-{digest[:8]}.pth'
    assert str(path) in done.stdout
    content = torch.load(path, weights_only=True)
    assert content.keys() == {'state_dict', 'meta'}
    assert content['state_dict'].keys() == WEIGHTS.keys()
    assert all(torch.equal(content['state_dict'][name], WEIGHTS[name]) for name in WEIGHTS)
    assert content['meta'] == {
        'epoch': 3,
        'iter': 30,
        'cfg': 'model = dict()',
        'dataset_meta': {'classes': ('cat',), 'palette': [[0, 0, 0]]},
    }


def test_live_weights_beside_their_average(checkpoint, tmp_path, publish):
    publish(checkpoint, tmp_path / 'out' / 'model', '--weights', 'live', '--no-config')
    content = torch.load(only_file(tmp_path / 'out'), weights_only=True)
    assert torch.equal(content['state_dict']['mu'], LIVE['mu'])
    assert 'cfg' not in content['meta']
    publish(checkpoint, tmp_path / 'mean' / 'model', '--weights', 'average')
    content = torch.load(only_file(tmp_path / 'mean'), weights_only=True)
    assert torch.equal(content['state_dict']['mu'], WEIGHTS['mu'])


def test_the_same_weights_give_the_same_name(checkpoint, tmp_path, publish):
    assert publish(checkpoint, tmp_path / 'model.pth') == publish(checkpoint, tmp_path / 'model')


def test_refuses_what_should_not_be_published(checkpoint, tmp_path, refused):
    out = tmp_path / 'out' / 'model.pth'
    content = torch.load(checkpoint, weights_only=False)
    del content['ema_state_dict']
    torch.save(content, checkpoint)
    assert 'needs a checkpoint of a run with EMAHook' in refused(
        checkpoint, out, '--weights', 'live'
    )
    content['state_dict'] = dict(WEIGHTS, mu=torch.tensor([1.0, torch.nan]))
    torch.save(content, checkpoint)
    assert 'mu has NaN or infinite values' in refused(checkpoint, out)
    checkpoint.write_bytes(b'no checkpoint')
    assert 'cannot be read as a PyTorch checkpoint' in refused(checkpoint, out)
    assert not (tmp_path / 'out').exists()


def test_the_whole_name_is_kept(checkpoint, tmp_path, publish):
    publish(checkpoint, tmp_path / 'out' / 'pgseg-v1.5')
    assert only_file(tmp_path / 'out').name.startswith('pgseg-v1.5-')
