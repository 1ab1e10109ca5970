import argparse
import os
import socket
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as torch_dist
from mmengine.config import Config

from pgseg_mm.cli import launch


def parse(*arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    launch.add_launch_arguments(parser)
    return parser.parse_args(arguments)


def refused(capsys, check, *arguments) -> str:
    """What a check of the command line says, and that it ends the program with status 2."""
    with pytest.raises(SystemExit) as leaving:
        check(argparse.ArgumentParser(prog='tool'), *arguments)
    assert leaving.value.code == 2
    said = capsys.readouterr().err.rpartition('tool: error: ')[2]
    assert 0 < len(said) <= 600
    return said


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
    monkeypatch.setattr(launch, 'get_device', lambda: device)


def test_gloo_without_accelerator(monkeypatch, config_file, capsys):
    on_device(monkeypatch, 'cpu')
    options = ['env_cfg.cudnn_benchmark=True', 'env_cfg.dist_cfg.timeout=60']
    args = parse(config_file, '--launcher', 'pytorch', '--cfg-options', *options)
    cfg = launch.load_config(args)
    launch.prepare_distributed(cfg)

    assert torch_dist.get_backend() == 'gloo'
    assert cfg.env_cfg.dist_cfg.backend == 'gloo'
    assert cfg.env_cfg.cudnn_benchmark
    assert cfg.model_wrapper_cfg.device_ids is None
    assert capsys.readouterr().out.count('\n') == 1


def test_wrapper_of_the_config_is_kept(monkeypatch):
    on_device(monkeypatch, 'cpu')
    cfg = Config(
        {'launcher': 'pytorch', 'model_wrapper_cfg': {'type': 'Mine', 'static_graph': True}}
    )
    launch.prepare_distributed(cfg)
    expected = {'type': 'Mine', 'static_graph': True, 'device_ids': None}
    assert cfg.model_wrapper_cfg.to_dict() == expected


@pytest.mark.parametrize(('launcher', 'device'), [('none', 'cpu'), ('pytorch', 'cuda')])
def test_other_jobs_are_left_as_they_are(monkeypatch, config_file, launcher, device):
    on_device(monkeypatch, device)
    cfg = launch.load_config(parse(config_file, '--launcher', launcher))
    before = cfg.to_dict()
    launch.prepare_distributed(cfg)
    assert cfg.to_dict() == before
    assert not torch_dist.is_initialized()


def test_slurm_without_accelerator_is_refused(monkeypatch):
    on_device(monkeypatch, 'cpu')
    with pytest.raises(ValueError, match='needs an accelerator'):
        launch.prepare_distributed(Config({'launcher': 'slurm'}))


def test_work_dir_comes_from_argument_config_or_name(config_file, tmp_path):
    assert launch.load_config(parse(config_file)).work_dir == os.path.join('work_dirs', 'tiny')
    own = launch.load_config(parse(config_file, '--cfg-options', 'work_dir=own'))
    assert own.work_dir == 'own'
    given = ['--work-dir', str(tmp_path), '--cfg-options', 'work_dir=own']
    assert launch.load_config(parse(config_file, *given)).work_dir == str(tmp_path)


@pytest.mark.parametrize('spelling', ['--local_rank', '--local-rank'])
def test_local_rank_argument_stands_in_for_the_variable(monkeypatch, config_file, spelling):
    monkeypatch.delenv('LOCAL_RANK')
    launch.load_config(parse(config_file, f'{spelling}=3'))
    assert os.environ['LOCAL_RANK'] == '3'


def test_missing_file_is_reported_by_the_parser():
    complaints = []
    launch.require_file(SimpleNamespace(error=complaints.append), 'config', '/nowhere/a.py')
    assert complaints == ['config file not found: /nowhere/a.py']


def test_a_gloo_job_ends_behind_what_is_registered_to_run_at_exit(monkeypatch):
    ended = []
    monkeypatch.setattr(launch.atexit, '_run_exitfuncs', lambda: ended.append('exit functions'))
    monkeypatch.setattr(launch.os, '_exit', ended.append)
    launch.end_job()
    assert not ended  # no job of several processes
    torch_dist.init_process_group('gloo')
    launch.end_job()
    assert ended == ['exit functions', 0]
    assert not torch_dist.is_initialized()


def test_config_in_projects_imports_its_own_modules(monkeypatch, tmp_path):
    configs = tmp_path / 'projects' / 'invented' / 'configs'
    configs.mkdir(parents=True)
    (configs.parent / 'parts.py').write_text('')
    path = configs / 'tiny.py'
    path.write_text("custom_imports = dict(imports=['projects.invented.parts'])\n")
    monkeypatch.setattr('sys.path', list(sys.path))
    for name in [name for name in sys.modules if name.partition('.')[0] == 'projects']:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError):
        Config.fromfile(path)
    launch.load_config(parse(str(path)))
    assert sys.modules['projects.invented.parts'].__file__ == str(configs.parent / 'parts.py')


@pytest.mark.parametrize(
    ('device', 'message'),
    [
        ('cuda', 'cuda cannot be used here'),
        ('cuda:7', 'cuda:7 cannot be used here'),
        ('0', '0 is the number of an accelerator, and this machine has none'),
        ('gpu', 'gpu cannot be used here'),
        ('', 'cannot be used here'),
    ],
)
def test_a_device_that_is_not_there(monkeypatch, capsys, device, message):
    on_device(monkeypatch, 'cpu')
    monkeypatch.setattr(torch, 'empty', lambda *_, device: _no_device(device))
    said = refused(capsys, launch.find_device, device)
    assert message in said
    assert 'cpu' in said


def _no_device(device: torch.device) -> None:
    raise RuntimeError(f'Found no driver for {device}\nand more lines')


def test_devices_that_are_there(monkeypatch):
    parser = argparse.ArgumentParser()
    assert launch.find_device(parser, None) is None
    assert launch.find_device(parser, 'cpu') == 'cpu'
    on_device(monkeypatch, 'cuda')
    monkeypatch.setattr(torch, 'empty', lambda *_, device: None)
    assert launch.find_device(parser, '1') == 'cuda:1'


def test_a_busy_port(capsys):
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen()
        port = server.getsockname()[1]
        said = refused(capsys, launch.require_port, '127.0.0.1', port)
    assert f'cannot listen on 127.0.0.1, port {port} (Address already in use)' in said
    launch.require_port(argparse.ArgumentParser(), '127.0.0.1', port)


@pytest.mark.parametrize('port', [0, -1, 70000])
def test_a_port_that_is_none(capsys, port):
    assert 'from 1 to 65535' in refused(capsys, launch.require_port, '127.0.0.1', port)


@pytest.mark.parametrize('name', ['file/out.npy', '.'])
def test_an_output_that_cannot_be_written(tmp_path, capsys, name):
    (tmp_path / 'file').touch()
    assert '--out' in refused(capsys, launch.check_output, tmp_path / name)


def test_the_launcher_of_the_config_stays(config_file, tmp_path):
    path = tmp_path / 'launched.py'
    path.write_text("launcher = 'pytorch'\n")
    assert launch.load_config(parse(str(path))).launcher == 'pytorch'
    assert launch.load_config(parse(str(path), '--launcher', 'none')).launcher == 'none'
    assert launch.load_config(parse(config_file)).launcher == 'none'
