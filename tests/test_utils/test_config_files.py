"""Configs with folders of any name, and settings that follow others."""

import os
from argparse import Namespace
from pathlib import Path

import pytest
from mmengine.config import Config

from pgseg_mm.utils.config_files import follow_settings, read_config_file
from pgseg_mm.utils.launch import load_config

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
