import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader

from pgseg_mm.serialization import runner_checkpoints as training_checkpoints
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.runner_checkpoints import (
    load_checkpoints_safely,
    load_training_checkpoint,
)
from toy_runs import run_toy


@pytest.fixture
def loader(monkeypatch):
    """mmengine's loaders, put back afterwards."""
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    return CheckpointLoader


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def save(tmp_path, **content):
    torch.save(content, tmp_path / 'saved.pth')
    return str(tmp_path / 'saved.pth')


def test_checkpoints_of_a_run_load_and_resume(tmp_path, loader):
    load_checkpoints_safely()
    run_toy(tmp_path, interrupt=8)
    checkpoint = loader.load_checkpoint(str(tmp_path / 'iter_6.pth'))
    trusted = torch.load(tmp_path / 'iter_6.pth', weights_only=False)
    assert checkpoint.keys() == trusted.keys() >= {'ema_state_dict', 'optimizer', 'data_state'}
    for name, value in trusted['state_dict'].items():
        assert torch.equal(checkpoint['state_dict'][name], value)
    loss = checkpoint['message_hub']['log_scalars']['train/loss']
    assert isinstance(loss, HistoryBuffer)
    assert loss.current() == trusted['message_hub']['log_scalars']['train/loss'].current()
    assert run_toy(tmp_path, resume=True).iter == 16


def test_what_mixed_precision_and_metrics_leave_loads(tmp_path, loader):
    load_checkpoints_safely()
    hub = MessageHub.get_instance('test_training_checkpoints')
    hub.update_info('best_score', np.float64(0.5))
    hub.update_info('counts', np.arange(3, dtype=np.uint16))
    hub.update_scalar('val/mIoU', np.float32(0.25))
    scaler = torch.amp.GradScaler('cpu').state_dict()
    path = save(tmp_path, message_hub=hub.state_dict(), optimizer={'loss_scaler': scaler})
    loaded = loader.load_checkpoint(path)
    assert loaded['message_hub']['runtime_info']['best_score'] == 0.5
    assert loaded['message_hub']['runtime_info']['counts'].tolist() == [0, 1, 2]
    assert loaded['message_hub']['log_scalars']['val/mIoU'].mean() == 0.25
    assert loaded['optimizer']['loss_scaler'] == scaler


def test_code_is_refused_by_name_and_run_only_if_trusted(tmp_path, loader):
    ran = tmp_path / 'ran'
    path = save(tmp_path, state_dict={}, meta=Malicious(ran))
    load_checkpoints_safely()
    with pytest.raises(CheckpointError, match=r'refused.*pathlib\.(_local\.)?Path.*--trust'):
        loader.load_checkpoint(path)
    assert not ran.exists()
    load_checkpoints_safely(trust=True)
    loader.load_checkpoint(path)
    assert ran.exists()


@pytest.mark.parametrize('name', ['__init__', '__globals__', 'register_statistics'])
def test_history_buffers_name_nothing_but_statistics(tmp_path, name):
    class Names:
        def __reduce__(self):
            return getattr, (HistoryBuffer, name)

    with pytest.raises(CheckpointError, match='refused'):
        load_training_checkpoint(save(tmp_path, entry=Names()))


def test_arrays_of_objects_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match='refused'):
        load_training_checkpoint(save(tmp_path, entry=np.array([{1}, None], dtype=object)))


def test_a_config_in_a_checkpoint_is_not_run(tmp_path):
    code = f"open({str(tmp_path / 'ran')!r}, 'w')"
    loaded = load_training_checkpoint(save(tmp_path, meta=dict(config=code, iter=3)))
    assert loaded['meta'] == dict(iter=3)


@pytest.mark.parametrize('content', [b'', b'no checkpoint', pickle.dumps([1])[:4]])
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / 'damaged.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match='damaged.pth'):
        load_training_checkpoint(path)
    whole = Path(save(tmp_path, state_dict={'a': torch.zeros(1000)}))
    path.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match='damaged.pth'):
        load_training_checkpoint(path)


@pytest.mark.parametrize('content', [b'', b'no checkpoint', pickle.dumps([1])[:4]])
def test_damaged_files_are_named_where_they_are_trusted_too(tmp_path, loader, content):
    load_checkpoints_safely(trust=True)
    path = tmp_path / 'damaged.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match='damaged.pth cannot be read'):
        loader.load_checkpoint(str(path))


def test_addresses(tmp_path, loader, monkeypatch):
    load_checkpoints_safely()
    with pytest.raises(CheckpointError, match='download the file'):
        loader.load_checkpoint('open-mmlab://resnet50')
    served = save(tmp_path, state_dict={'a': torch.ones(1)})
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(
        training_checkpoints.torch.hub,
        'download_url_to_file',
        lambda url, to: Path(to).write_bytes(Path(served).read_bytes()),
    )
    loaded = loader.load_checkpoint('https://example.org/last.pth?x=1')
    assert loaded['state_dict']['a'] == 1
    with pytest.raises(FileNotFoundError, match='absent.pth does not exist'):
        loader.load_checkpoint('absent.pth')
