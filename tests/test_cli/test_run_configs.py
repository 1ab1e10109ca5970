import os
import sys

import pytest
from mmengine.config import Config

from launch_arguments import parse
from pgseg_mm.cli import run_configs


@pytest.fixture(autouse=True)
def local_rank(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')  # undone afterwards, whoever sets it


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / 'tiny.py'
    path.write_text("env_cfg = dict(dist_cfg=dict(backend='nccl'))\n")
    return str(path)


def test_work_dir_comes_from_argument_config_or_name(config_file, tmp_path):
    assert run_configs.load_config(parse(config_file)).work_dir == os.path.join('work_dirs', 'tiny')
    own = run_configs.load_config(parse(config_file, '--cfg-options', 'work_dir=own'))
    assert own.work_dir == 'own'
    given = ['--work-dir', str(tmp_path), '--cfg-options', 'work_dir=own']
    assert run_configs.load_config(parse(config_file, *given)).work_dir == str(tmp_path)


@pytest.mark.parametrize('spelling', ['--local_rank', '--local-rank'])
def test_local_rank_argument_stands_in_for_the_variable(monkeypatch, config_file, spelling):
    monkeypatch.delenv('LOCAL_RANK')
    run_configs.load_config(parse(config_file, f'{spelling}=3'))
    assert os.environ['LOCAL_RANK'] == '3'


def test_local_rank_of_open_mpi_is_taken(monkeypatch, config_file):
    monkeypatch.delenv('LOCAL_RANK')
    monkeypatch.setenv('OMPI_COMM_WORLD_LOCAL_RANK', '2')
    run_configs.load_config(parse(config_file))
    assert os.environ['LOCAL_RANK'] == '2'


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
    run_configs.load_config(parse(str(path)))
    assert sys.modules['projects.invented.parts'].__file__ == str(configs.parent / 'parts.py')


def test_the_launcher_of_the_config_stays(config_file, tmp_path):
    path = tmp_path / 'launched.py'
    path.write_text("launcher = 'pytorch'\n")
    assert run_configs.load_config(parse(str(path))).launcher == 'pytorch'
    assert run_configs.load_config(parse(str(path), '--launcher', 'none')).launcher == 'none'
    assert run_configs.load_config(parse(config_file)).launcher == 'none'


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ({}, {'checked_loading': {'type': 'mmseg.CheckedLoadingHook'}}),
        ({'checked_loading': {'type': 'Mine'}}, {'checked_loading': {'type': 'Mine'}}),
        ({'checked_loading': None}, {}),
    ],
)
def test_what_a_config_says_of_its_checks_stays(given, expected):
    cfg = Config({'default_hooks': given})
    run_configs.check_loading_of(cfg)
    assert cfg.default_hooks.to_dict() == expected
