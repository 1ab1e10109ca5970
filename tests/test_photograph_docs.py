"""What docs/real_photographs.md shows is run small: data, training, retrieval, control."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from pages import ROOT, commands, read_page
from photograph_sets import write_davis, write_flickr8k

PAGE = read_page('docs/real_photographs.md')


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with the two sets as they are distributed, where the commands are run."""
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('PGSEG_DATA_ROOT', raising=False)
    write_flickr8k(tmp_path / 'Flickr8k')
    write_davis(tmp_path / 'DAVIS', ('dog', 'parkour', 'soapbox'), frames=9)
    return tmp_path


def convert(words: list[str], monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(Path(words[1]).parent.resolve()))
    monkeypatch.setattr(sys, 'argv', [*words[1:], '--workers', '1'])
    runpy.run_path(words[1], run_name='__main__')


def small_runner(path: str, **kwargs) -> Runner:
    """A Runner of a config as it is, but for its size and for processes of its own."""
    cfg = Config.fromfile(path)
    cfg.merge_from_dict({key: value for key, value in kwargs.items() if value is not None})
    for name in ('train', 'val', 'test'):
        loader = cfg.get(f'{name}_dataloader')
        if loader is not None:
            loader.num_workers, loader.persistent_workers = 0, False
            loader.batch_size = 4
    if 'train_cfg' in cfg:
        cfg.train_cfg.max_iters, cfg.train_cfg.val_interval = 2, 2
        cfg.default_hooks.checkpoint.interval = 2
    cfg.experiment_name = Path(cfg.work_dir).name
    cfg.env_cfg.mp_cfg, cfg.randomness = {}, dict(seed=0)
    return Runner.from_cfg(cfg)


def test_the_way_from_the_archives_to_the_figures(place, monkeypatch):
    flickr8k, davis, shuffled = commands(PAGE, 'dataset_converters')
    for words in (flickr8k, davis, shuffled):
        convert(words, monkeypatch)
    train, control = commands(PAGE, 'tools/train.py')
    test_davis, test_retrieval = commands(PAGE, 'tools/test.py')
    work_dir = train[train.index('--work-dir') + 1]

    runner = small_runner(train[2], work_dir=work_dir)
    runner.train()
    metrics = runner.val_loop.run()
    named = {'mIoU_person', 'mIoU_dog', 'mIoU_car', 'mIoU_labelled'}
    assert named <= metrics.keys()
    assert all(f'`{name}`' in PAGE for name in named)
    assert 0 <= metrics['mIoU_dog'] <= 100
    assert not metrics['mIoU_car'] > 0  # there is none
    assert len(runner.model.vocabulary.flat_words) == 20
    assert test_davis[2] == train[2] and test_davis[3] == test_retrieval[3]
    last = Path(work_dir, 'iter_2.pth')
    assert Path(test_davis[3]).parent == Path(work_dir)

    retriever = small_runner(test_retrieval[2], work_dir='retrieval', load_from=str(last))
    found = retriever.test()
    directions = [f'{way}_{what}' for way in ('i2t', 't2i') for what in ('R@1', 'median_rank')]
    assert {f'retrieval/{name}' for name in directions} <= found.keys()
    assert found['retrieval/t2i_R@5'] == 100  # of four photographs
    trained = torch.load(last, weights_only=False)['state_dict']
    assert all(torch.equal(trained[k], v) for k, v in retriever.model.state_dict().items())

    key, value = control[control.index('--cfg-options') + 1].split('=')
    assert control[2] == train[2] and Path(value, 'captions_train.jsonl').is_file()
    cfg = Config.fromfile(control[2])
    before = cfg.train_dataloader.dataset.dataset.data_root
    cfg.merge_from_dict({key: value})
    assert cfg.train_dataloader.dataset.dataset.data_root == value != before


def test_length_of_the_training_is_that_of_the_page():
    (train, _) = commands(PAGE, 'tools/train.py')
    cfg = Config.fromfile(ROOT / train[2])
    assert f'{cfg.train_cfg.max_iters} iterations of {cfg.train_dataloader.batch_size}' in PAGE
    assert f'every {cfg.train_cfg.val_interval} iterations' in PAGE
    assert commands(PAGE, 'tools/test.py')[0][3].endswith(f'iter_{cfg.train_cfg.max_iters}.pth')
