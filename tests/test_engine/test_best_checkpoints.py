"""The best checkpoint of a run is there, whatever its name."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from killed_runs import last_checkpoint
from toy_runs import InterruptedError, run_toy, toy_config
from toy_validation import ToyValidation, with_validation

BEST = dict(save_best='score', rule='greater')


def run(folder, loop, scores, monkeypatch, **settings):
    monkeypatch.setattr(ToyValidation, 'scores', list(scores))
    runner = Runner.from_cfg(with_validation(toy_config(folder, loop, seed=1, **settings)))
    runner.train()
    assert not ToyValidation.scores
    return sorted(path.name for path in folder.glob('best_*.pth'))


@pytest.mark.parametrize('scores', [(1.0, 2.0), (1.0, 2.0, 3.0), (2.0, 1.0, 1.5)])
def test_a_better_one_of_the_same_name_is_kept(tmp_path, monkeypatch, scores):
    """All best ones of a run by iterations are of epoch 0 where checkpoints count epochs."""
    loop = dict(type='ResumableIterLoop', max_iters=4 * len(scores), val_interval=4)
    checkpoint = dict(BEST, by_epoch=True, interval=1)
    found = run(tmp_path, loop, scores, monkeypatch, checkpoint=checkpoint)
    assert found == ['best_score_epoch_0.pth']
    info = last_checkpoint(tmp_path)['message_hub']['runtime_info']
    assert info['best_ckpt'] == str(tmp_path / found[0]) and info['best_score'] == max(scores)


def test_a_better_one_leaves_a_name_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(ToyValidation, 'scores', [1.0])
    loop = dict(type='ResumableIterLoop', max_iters=8, val_interval=4)
    settings = dict(checkpoint=dict(BEST, interval=4), interrupt=5)
    runner = Runner.from_cfg(with_validation(toy_config(tmp_path, loop, **settings)))
    with pytest.raises(InterruptedError):
        runner.train()
    assert (tmp_path / 'last_checkpoint').read_text() == 'iter_4.pth'  # the folder can be moved


def test_a_worse_one_goes(tmp_path, monkeypatch):
    loop = dict(type='ResumableEpochLoop', max_epochs=3)
    checkpoint = dict(BEST, by_epoch=True, interval=1)
    found = run(tmp_path, loop, (1.0, 2.0, 1.5), monkeypatch, checkpoint=checkpoint)
    assert found == ['best_score_epoch_2.pth']


def test_validations_between_accumulated_gradients_write_none(tmp_path, monkeypatch):
    wrapper = dict(accumulative_counts=4)
    loop = dict(type='ResumableIterLoop', max_iters=16, val_interval=6)
    settings = dict(optim_wrapper=wrapper, checkpoint=dict(BEST, interval=4))
    with pytest.raises(ValueError, match='val_interval, 6 iterations, would lose .* of 4'):
        run(tmp_path / 'refused', loop, (), monkeypatch, **settings)
    settings['checkpoint'] = dict(interval=4)  # nothing is written behind a validation
    assert run(tmp_path / 'plain', loop, (1.0, 2.0, 3.0), monkeypatch, **settings) == []
    epochs = dict(type='ResumableEpochLoop', max_epochs=2)  # of five steps
    settings = dict(optim_wrapper=dict(accumulative_counts=5), checkpoint=dict(BEST, interval=5))
    assert run(tmp_path / 'epochs', epochs, (1.0, 2.0), monkeypatch, **settings)
    assert run_toy(tmp_path / 'none', optim_wrapper=wrapper, checkpoint=dict(BEST, interval=4))


class SpoilHook(Hook):
    """Makes weights NaN behind a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.at:
            with torch.no_grad():
                next(runner.model.parameters()).fill_(float('nan'))


def test_weights_that_are_nan_do_not_take_the_place_of_the_best(tmp_path, monkeypatch):
    monkeypatch.setattr(ToyValidation, 'scores', [1.0, 2.0])
    loop = dict(type='ResumableIterLoop', max_iters=8, val_interval=2)
    checkpoint = dict(BEST, interval=8)
    runner = Runner.from_cfg(with_validation(toy_config(tmp_path, loop, checkpoint=checkpoint)))
    runner.register_hook(SpoilHook(at=4), priority='VERY_HIGH')
    with pytest.raises(FloatingPointError, match='after step 4 .* NaN or infinite'):
        runner.train()
    assert [path.name for path in tmp_path.glob('best_*.pth')] == ['best_score_iter_2.pth']
