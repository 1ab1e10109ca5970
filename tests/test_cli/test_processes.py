import socket

import pytest
import torch.distributed as torch_dist
from mmengine.config import Config

from launch_arguments import parse
from pgseg_mm.cli import processes, run_configs


@pytest.fixture(autouse=True)
def single_process_job(monkeypatch):
    """The environment torchrun would set for a job of one process, undone afterwards."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    job = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port, 'RANK': 0, 'WORLD_SIZE': 1}
    for name, value in (job | {'LOCAL_RANK': 0}).items():
        monkeypatch.setenv(name, str(value))
    yield
    if torch_dist.is_initialized():
        torch_dist.destroy_process_group()


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / 'tiny.py'
    path.write_text("env_cfg = dict(dist_cfg=dict(backend='nccl'))\n")
    return str(path)


def on_device(monkeypatch, device):
    monkeypatch.setattr(processes, 'get_device', lambda: device)


def test_gloo_without_accelerator(monkeypatch, config_file, capsys):
    on_device(monkeypatch, 'cpu')
    options = ['env_cfg.cudnn_benchmark=True', 'env_cfg.dist_cfg.timeout=60']
    args = parse(config_file, '--launcher', 'pytorch', '--cfg-options', *options)
    cfg = run_configs.load_config(args)
    processes.prepare_distributed(cfg)

    assert torch_dist.get_backend() == 'gloo'
    assert cfg.env_cfg.dist_cfg.backend == 'gloo'
    assert cfg.env_cfg.cudnn_benchmark
    assert cfg.model_wrapper_cfg.device_ids is None
    assert capsys.readouterr().out.count('\n') == 1


def test_a_second_run_of_the_same_processes_finds_them_together(monkeypatch):
    on_device(monkeypatch, 'cpu')
    for _ in range(2):
        cfg = Config({'launcher': 'pytorch'})
        processes.prepare_distributed(cfg)
        assert torch_dist.get_backend() == 'gloo' and cfg.model_wrapper_cfg.device_ids is None


def test_wrapper_of_the_config_is_kept(monkeypatch):
    on_device(monkeypatch, 'cpu')
    cfg = Config(
        {'launcher': 'pytorch', 'model_wrapper_cfg': {'type': 'Mine', 'static_graph': True}}
    )
    processes.prepare_distributed(cfg)
    expected = {'type': 'Mine', 'static_graph': True, 'device_ids': None}
    assert cfg.model_wrapper_cfg.to_dict() == expected


@pytest.mark.parametrize(('launcher', 'device'), [('none', 'cpu'), ('pytorch', 'cuda')])
def test_other_jobs_are_left_as_they_are(monkeypatch, config_file, launcher, device):
    on_device(monkeypatch, device)
    cfg = run_configs.load_config(parse(config_file, '--launcher', launcher))
    before = cfg.to_dict()
    processes.prepare_distributed(cfg)
    assert cfg.to_dict() == before
    assert not torch_dist.is_initialized()


def test_slurm_without_accelerator_is_refused(monkeypatch):
    on_device(monkeypatch, 'cpu')
    with pytest.raises(ValueError, match='needs an accelerator'):
        processes.prepare_distributed(Config({'launcher': 'slurm'}))


def test_a_gloo_job_ends_behind_what_is_registered_to_run_at_exit(monkeypatch):
    ended = []
    monkeypatch.setattr('atexit._run_exitfuncs', lambda: ended.append('exit functions'))
    monkeypatch.setattr('os._exit', ended.append)
    processes.end_job()
    assert not ended  # no job of several processes
    torch_dist.init_process_group('gloo')
    processes.end_job()
    assert ended == ['exit functions', 0]
    assert not torch_dist.is_initialized()
