"""Loops validate when their config says so, and once."""

import pytest
import torch
from mmengine.runner import Runner

from killed_runs import last_checkpoint
from pgseg_mm.engine.loops import VALIDATION_DUE
from pgseg_mm.serialization.runner_checkpoints import load_checkpoints_safely
from toy_runs import toy_config
from toy_validation import ToyValidation, with_validation


@pytest.fixture
def train(monkeypatch):
    """Trains by a loop, and returns the iterations that it has validated behind."""

    def run(folder, loop, **settings):
        load_checkpoints_safely()
        monkeypatch.setattr(ToyValidation, 'seen', [])
        Runner.from_cfg(with_validation(toy_config(folder, loop, **settings))).train()
        return [iteration for iteration, index in ToyValidation.seen if index == 2]

    return run


@pytest.mark.parametrize(
    ('settings', 'expected'),
    [
        (dict(val_interval=6), [6, 12, 16]),
        (dict(val_interval=4, val_begin=8), [8, 12, 16]),
        (dict(val_interval=4, val_begin=9), [12, 16]),
        (dict(val_interval=6, dynamic_intervals=[(12, 2)]), [6, 12, 14, 16]),
    ],
)
def test_validations_of_iterations(tmp_path, train, settings, expected):
    loop = dict(type='ResumableIterLoop', max_iters=16, **settings)
    assert train(tmp_path, loop) == expected


@pytest.mark.parametrize(
    ('settings', 'expected'),
    [
        (dict(val_interval=2), [10, 15]),
        (dict(val_interval=1, val_begin=2), [10, 15]),
        (dict(val_interval=5), [15]),
    ],
)
def test_validations_of_epochs(tmp_path, train, settings, expected):
    loop = dict(type='ResumableEpochLoop', max_epochs=3, **settings)  # of five steps each
    assert train(tmp_path, loop) == expected


def test_what_was_validated_is_not_validated_again(tmp_path, train):
    checkpoint = dict(interval=3, save_best='score', rule='greater')
    loop = dict(type='ResumableIterLoop', max_iters=6, val_interval=3)
    assert train(tmp_path, loop, checkpoint=checkpoint) == [3, 6]
    best = torch.load(tmp_path / 'best_score_iter_3.pth', weights_only=False)
    assert VALIDATION_DUE not in best['message_hub']['runtime_info']
    assert last_checkpoint(tmp_path)['message_hub']['runtime_info'][VALIDATION_DUE] == 6


def test_a_validation_of_another_step_is_not_made_up_for(tmp_path, train):
    loop = dict(type='ResumableIterLoop', max_iters=6, val_interval=10)
    assert train(tmp_path, loop) == [6]
    path = tmp_path / 'iter_3.pth'
    content = torch.load(path, weights_only=False)
    content['message_hub']['runtime_info'][VALIDATION_DUE] = 2
    content['message_hub']['resumed_keys'][VALIDATION_DUE] = True
    torch.save(content, path)
    (tmp_path / 'last_checkpoint').write_text(path.name)
    assert train(tmp_path, loop, resume=True) == [6]
