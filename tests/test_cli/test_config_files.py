"""Configs with folders of any name, and settings that follow others."""

import os
import re
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest
from mmengine.config import Config

from pgseg_mm.cli.config_files import (
    SettingsAction,
    follow_settings,
    override,
    read_config_file,
)
from pgseg_mm.cli.run_configs import load_config
from tool_runs import refusal

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.mark.parametrize('root', ["/data/it's", '/my "data"', '/two words/ä', '/back\\slash', '/a'])
@pytest.mark.parametrize('name', ['voc21', 'coco_stuff', 'lvis'])
def test_the_folder_of_all_data_may_be_called_anything(monkeypatch, root, name):
    monkeypatch.setenv('PGSEG_DATA_ROOT', root)
    cfg = read_config_file(CONFIGS / '_base_' / 'benchmarks' / f'{name}.py')

    assert cfg.test_dataloader.dataset.data_root.startswith(root)
    assert root in cfg.benchmark.prepare
    assert os.environ['PGSEG_DATA_ROOT'] == root


def test_without_workers_none_persist():
    loader = dict(num_workers=0, persistent_workers=True, prefetch_factor=4)
    cfg = Config(dict(train_dataloader=loader, val_dataloader=None, test_dataloader=dict(loader)))
    follow_settings(cfg)

    assert cfg.train_dataloader == dict(num_workers=0, persistent_workers=False)
    assert cfg.test_dataloader == dict(num_workers=0, persistent_workers=False)


def test_shipped_loaders_work_without_workers_by_a_setting():
    config = CONFIGS / 'pgseg' / 'pgseg_tiny-p8_emoji-scenes-64x64.py'
    options = {'train_dataloader.num_workers': 0, 'val_dataloader.num_workers': 0}
    args = Namespace(
        config=str(config), cfg_options=options, work_dir='w', launcher='none', local_rank=0
    )
    cfg = load_config(args)

    assert not cfg.train_dataloader.persistent_workers
    assert not cfg.val_dataloader.persistent_workers
    assert cfg.test_dataloader.persistent_workers


@pytest.mark.parametrize(
    ('name', 'content', 'said'),
    [
        ('a.py', 'model = dict(\n', r"SyntaxError: '\(' was never closed \(line 1\)"),
        ('a.py', "_base_ = './gone.py'\n", 'FileNotFoundError.*gone.py'),
        ('a.py', 'a = 1\nb = missing_name\n', r"NameError: name 'missing_name' is not defined"),
        ('a.json', '[1]', 'AttributeError'),
        ('a.yaml', 'a: [', 'ParserError'),
        ('a.yaml', 'a: !!python/object/apply:os.system ["exit"]', 'ConstructorError'),
        ('a.pth', 'PK', 'does not end in any of .py'),
    ],
)
@pytest.mark.parametrize('tool', ['tools/train.py', 'tools/misc/print_config.py'])
def test_what_is_no_config_is_refused_by_tools(
    tmp_path, monkeypatch, capsys, tool, name, content, said
):
    (tmp_path / name).write_text(content)
    assert re.search(said, refusal(monkeypatch, capsys, tool, tmp_path / name))


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        (['alone'], "takes KEY=VALUE, got 'alone'"),
        (['=3'], "takes KEY=VALUE, got '=3'"),
        (["a=[dict(type='B',c='d')]"], r'cannot be read \(RecursionError\)'),
        (['a=[1', 'b'], "takes KEY=VALUE, got 'b'"),
        (['train_dataloader.batch_size.x=3'], 'does not fit the config: TypeError'),
        (['custom_hooks.7.type=EMAHook'], 'does not fit the config: KeyError: Index 7 exceeds'),
        ([f'custom_hooks.{"9" * 900}={"x" * 900}'], 'does not fit the config'),
    ],
)
@pytest.mark.parametrize(
    'tool', ['tools/train.py', 'tools/analysis_tools/get_flops.py', 'tools/test.py']
)
def test_settings_that_do_not_fit_are_refused(tmp_path, monkeypatch, capsys, tool, settings, said):
    config = CONFIGS / 'pgseg' / 'pgseg_tiny-p8_emoji-scenes-64x64.py'
    weights = ['none', '--allow-partial'] if tool == 'tools/test.py' else []
    message = refusal(monkeypatch, capsys, tool, config, *weights, '--cfg-options', *settings)
    assert re.search(said, message)


@pytest.mark.parametrize(
    ('given', 'value'),
    [
        ('["a photo of a {}.", "{}"]', ['a photo of a {}.', '{}']),
        ("('a b',)", ('a b',)),
        ('/mnt/my data/{0..3}.tar', '/mnt/my data/{0..3}.tar'),
        ('/mnt/{a,b}.tar', '/mnt/{a,b}.tar'),
        ('a photo of a {}.', 'a photo of a {}.'),
        ('"3"', '3'),
        ('[a, b]', ['a', 'b']),
        ('[1, 2]', [1, 2]),
        ('1, 2', [1, 2]),
        ('false ', False),
        (' 1e-3', 0.001),
        ('{0,1}', '{0,1}'),
        # as mmengine has them
        ('1,2', [1, 2]),
        ('(a,[b,c])', ('a', ['b', 'c'])),
        ('true', True),
        ('None', None),
        ('1e-3', 0.001),
    ],
)
def test_values_keep_their_blanks(given, value):
    parser = ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=SettingsAction)
    assert parser.parse_args(['--cfg-options', f'key={given}']).cfg_options == {'key': value}


@pytest.mark.parametrize('given', ['[a b,c]', 'a photo, or two', '[x{0,1}.tar]', '[/a b/{0..1}]'])
def test_blanks_and_commas_in_words_of_lists_need_quotes(given, capsys):
    parser = ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=SettingsAction)
    with pytest.raises(SystemExit):
        parser.parse_args(['--cfg-options', f'key={given}'])
    assert 'needs quotes' in capsys.readouterr().err


def test_settings_of_other_kinds_work():
    cfg = read_config_file(CONFIGS / 'pgseg' / 'pgseg_tiny-p8_emoji-scenes-64x64.py')
    override(cfg, {'custom_hooks.0.vocabulary': 'x.txt', 'new.part': 1, 'load_from': None})
    assert cfg.custom_hooks[0].vocabulary == 'x.txt' and cfg.new.part == 1


def test_a_config_of_a_project_can_import_its_modules_wherever_it_is_read(tmp_path):
    project = tmp_path / 'projects' / 'house' / 'projects' / 'one_of_mine'
    project.mkdir(parents=True)
    (project / 'parts.py').write_text('NUMBER = 3\n')
    text = "custom_imports = dict(imports=['projects.one_of_mine.parts'])\nnumber = 3\n"
    (project / 'config.py').write_text(text)
    code = (
        'from pgseg_mm.cli.config_files import read_config_file\n'
        f'print(read_config_file({str(project / "config.py")!r}).number)\n'
        'from projects.one_of_mine.parts import NUMBER\nprint(NUMBER)\n'
        f'import sys; assert {str(tmp_path)!r} not in sys.path[1:]'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ['3', '3']


def test_a_config_in_yaml_may_have_tuples(tmp_path):
    (tmp_path / 'a.yaml').write_text('size: !!python/tuple [3, 4]')
    assert read_config_file(tmp_path / 'a.yaml').size == (3, 4)
