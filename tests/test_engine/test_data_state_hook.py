"""Streams are read in turn, over epochs and runs; too much that is skipped ends a run early."""

import pytest
import torch
from mmengine.runner import Runner

from pgseg_mm.engine.hooks import data_state_hook
from pgseg_mm.serialization.runner_checkpoints import load_checkpoints_safely
from toy_runs import BATCH_SIZE, read_by, run_toy, toy_config

EPOCHS = dict(type='ResumableEpochLoop', max_epochs=3)  # of five steps each
STREAMS = dict(dataset=dict(stream=True), workers=2)


def first_streams(runner) -> list[int]:
    """For each epoch the stream that it was begun with."""
    return [told['first_worker'] for told in runner.train_dataloader.dataset.progress]


def test_each_epoch_begins_with_the_first_stream(tmp_path):
    assert first_streams(run_toy(tmp_path, EPOCHS, **STREAMS)) == [0, 0, 0]


@pytest.mark.parametrize(
    ('interrupt', 'checkpoint', 'expected'),
    [
        (8, dict(interval=3), [1, 0]),  # goes on behind the first step of the second epoch
        (8, dict(interval=7), [0, 0]),  # behind its second
        (7, dict(by_epoch=True, interval=1), [0, 0]),
    ],
)
def test_a_resumed_run_goes_on_with_the_stream_whose_turn_it_is(
    tmp_path, interrupt, checkpoint, expected
):
    settings = dict(checkpoint=checkpoint, **STREAMS)
    run_toy(tmp_path, EPOCHS, interrupt=interrupt, **settings)
    assert first_streams(run_toy(tmp_path, EPOCHS, resume=True, **settings)) == expected


def test_turns_are_those_of_batches_whatever_their_size(tmp_path):
    run_toy(tmp_path, interrupt=4, **STREAMS)
    run_toy(tmp_path, interrupt=7, resume=True, batch_size=2, **STREAMS)
    # six batches are behind it; 18 samples are nine batches of two
    assert first_streams(run_toy(tmp_path, resume=True, batch_size=2, **STREAMS)) == [0]


@pytest.mark.parametrize('workers', [2, 1])
def test_streams_of_other_workers_begin_anew(tmp_path, workers):
    run_toy(tmp_path, interrupt=4, **STREAMS)
    resumed = run_toy(tmp_path, resume=True, dataset=STREAMS['dataset'], workers=workers)
    (told,) = resumed.train_dataloader.dataset.progress
    assert {*told['states']} == ({0, 1} if workers == 2 else set())
    assert told['first_worker'] == (1 if workers == 2 else 0)


def test_a_checkpoint_without_a_state_goes_on_within_its_epoch(tmp_path):
    run_toy(tmp_path, EPOCHS, interrupt=8)
    path = tmp_path / 'iter_6.pth'
    content = torch.load(path, weights_only=False)
    del content['data_state']
    torch.save(content, path)
    resumed = run_toy(tmp_path, EPOCHS, resume=True)
    assert resumed.iter == 15
    assert len(read_by(resumed)) == (4 + 5) * BATCH_SIZE


def test_several_ranks_need_checkpoints_of_all_of_them(tmp_path, monkeypatch):
    cfg = toy_config(tmp_path)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=3)
    runner = Runner.from_cfg(cfg)
    monkeypatch.setattr(data_state_hook, 'get_world_size', lambda: 2)
    with pytest.raises(ValueError, match=r"checkpoint=dict\(type='SafeCheckpointHook'"):
        runner.train()


MANY = dict(dataset=dict(skip=40), data_state=dict(max_skipped=0.2, min_samples=20))


def skipping(folder, logged: int, saved: int) -> Runner:
    """A run with far more skipped samples than it may have."""
    load_checkpoints_safely()
    cfg = toy_config(folder, seed=1, checkpoint=dict(interval=saved), **MANY)
    cfg.default_hooks.logger.interval = logged
    runner = Runner.from_cfg(cfg)
    with pytest.raises(RuntimeError, match=r'more than max_skipped=20.0% .*toys: [0-9]+ read'):
        runner.train()
    return runner


def test_skipped_samples_end_a_run_where_they_are_logged(tmp_path):
    runner = skipping(tmp_path, logged=2, saved=100)
    # those that were skipped count for min_samples: it need not have read 20
    assert len(read_by(runner)) == 2 * BATCH_SIZE


def test_skipped_samples_end_a_run_before_it_saves(tmp_path):
    runner = skipping(tmp_path, logged=100, saved=3)
    assert len(read_by(runner)) == 3 * BATCH_SIZE
    assert not list(tmp_path.glob('*.pth'))
