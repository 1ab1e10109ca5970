import os
import sys
from argparse import ArgumentParser

import pytest
from mmengine.config import Config

from launch_arguments import parse
from pgseg_mm.cli import run_configs
from pgseg_mm.cli.config_files import ConfigError


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


@pytest.mark.parametrize('name', ['load_from', 'work_dir'])
def test_a_number_is_no_path(config_file, name):
    with pytest.raises(ConfigError, match=f'{name} is a .*, got 5 of type int'):
        cfg = run_configs.load_config(parse(config_file, '--cfg-options', f'{name}=5'))
        run_configs.require_weights(cfg)


@pytest.mark.parametrize('source', ['~nobody-of-this-name/x.pth', 'x' * 300 + '.pth'])
def test_weights_that_cannot_be_there(source):
    with pytest.raises(FileNotFoundError, match='load_from file not found'):
        run_configs.require_weights(Config({'load_from': source}))


def test_a_config_without_a_model_has_no_encoders():
    assert run_configs.encoders_without_weights(Config({'a': 1})) == []


def test_an_installed_config_that_cannot_be_read(monkeypatch, capsys):
    def fail(name):
        raise SyntaxError('unterminated string literal')

    monkeypatch.setattr(run_configs, 'get_config', fail)
    with pytest.raises(SystemExit):
        run_configs.find_config(ArgumentParser(), 'pgseg_mm::pgseg/x.py')
    assert 'pgseg_mm::pgseg/x.py cannot be read: SyntaxError: unterm' in capsys.readouterr().err
