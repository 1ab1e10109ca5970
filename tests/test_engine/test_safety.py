import logging
import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import find_latest_checkpoint
from mmseg.structures import SegDataSample

from distributed import on_two_ranks
from killed_runs import last_checkpoint
from pgseg_mm.engine.hooks import FiniteLossHook, atomic_backend, safe_checkpoint_hook
from pgseg_mm.serialization import runner_checkpoints
from toy_runs import BATCH_SIZE, ToyModel, read_by, run_toy


def test_a_loss_that_is_nan_ends_the_run(tmp_path):
    order = [sample for sample, _ in read_by(run_toy(tmp_path / 'whole', seed=1))]
    bad = order[4 * BATCH_SIZE + 1]  # in step 5
    first_step = order.index(bad) // BATCH_SIZE + 1
    with pytest.raises(FloatingPointError) as error:
        run_toy(tmp_path / 'run', seed=1, dataset=dict(nan_at=bad))
    message = str(error.value)
    assert f'the loss of step {first_step} is nan on rank 0' in message
    assert f'toy {bad}' in message
    saved = (first_step - 1) // 3 * 3
    assert f'iter_{saved}.pth' in message and 'last good checkpoint' in message
    assert find_latest_checkpoint(str(tmp_path / 'run')).endswith(f'iter_{saved}.pth')
    (names,) = (tmp_path / 'run').rglob('samples_iter*_rank0.txt')
    assert len(names.read_text().splitlines()) == BATCH_SIZE


def test_the_samples_of_a_nan_are_named_before_weights_are(tmp_path):
    order = [sample for sample, _ in read_by(run_toy(tmp_path / 'whole', seed=1))]
    settings = dict(dataset=dict(nan_at=order[4]), checkpoint=dict(interval=1))
    with pytest.raises(FloatingPointError, match=f'the loss of step .* is nan .*toy {order[4]}'):
        run_toy(tmp_path / 'run', seed=1, **settings)


def loss_at_rank(rank: int, folder: str) -> str:
    """What the hook says on a rank whose loss, the mean over ranks, is NaN."""
    runner = SimpleNamespace(
        iter=4,
        log_dir=folder,
        message_hub=SimpleNamespace(runtime_info={'last_ckpt': '/Runs/A/iter_3.pth'}),
    )
    batch = {'data_samples': [SegDataSample(metainfo=dict(img_path=f'{rank}.jpg'))]}
    try:
        FiniteLossHook().after_train_iter(runner, 4, batch, {'loss': torch.tensor(math.nan)})
    except FloatingPointError as error:
        return str(error)
    return 'no error'


def test_each_rank_names_its_own_samples_and_points_to_those_of_the_others(tmp_path):
    messages = on_two_ranks(loss_at_rank, str(tmp_path), folder=tmp_path)
    for rank, message in enumerate(messages):
        assert f'step 5 is nan on rank {rank}' in message
        assert f'Its batch: {rank}.jpg; all of them are in ' in message
        assert f'samples_iter5_rank{rank}.txt, those of other ranks beside it' in message
        assert (tmp_path / f'samples_iter5_rank{rank}.txt').read_text() == f'{rank}.jpg\n'


def test_weights_that_are_nan_are_not_saved(tmp_path, monkeypatch):
    hook = safe_checkpoint_hook.SafeCheckpointHook
    save = hook._save_checkpoint_with_step

    def spoil(self, runner, step, meta):
        if step == 6:
            with torch.no_grad():
                runner.model.layers[0].weight[0, 0] = math.inf
        save(self, runner, step, meta)

    monkeypatch.setattr(hook, '_save_checkpoint_with_step', spoil)
    with pytest.raises(FloatingPointError, match=r'after step 6 1 weights .*layers.0.weight; no'):
        run_toy(tmp_path)
    assert not (tmp_path / 'iter_6.pth').exists()
    assert find_latest_checkpoint(str(tmp_path)).endswith('iter_3.pth')


def test_buffers_that_are_nan_are_not_saved(tmp_path, monkeypatch):
    forward = ToyModel.forward
    monkeypatch.setattr(ToyModel, 'forward', with_buffer(forward, math.inf))
    assert run_toy(tmp_path / 'mask').iter == 16
    monkeypatch.setattr(ToyModel, 'forward', with_buffer(forward, math.nan))
    with pytest.raises(FloatingPointError, match=r'after step 3 1 weights .*such as moments; no'):
        run_toy(tmp_path / 'moments')


def with_buffer(forward, value):
    def run(self, *args, **kwargs):
        self.register_buffer('moments', torch.tensor([0.0, value]))
        return forward(self, *args, **kwargs)

    return run


class Full(OSError):
    pass


@pytest.mark.parametrize('name', ['iter_6.pth', 'last_checkpoint'])
def test_a_checkpoint_that_breaks_off_leaves_the_previous_one(tmp_path, monkeypatch, name):
    write = atomic_backend.write_synced

    def break_off(path, content):
        if path.name.startswith(f'.{name}') and (tmp_path / 'iter_3.pth').exists():
            path.write_bytes(bytes(content)[: len(content) // 2])
            raise Full
        write(path, content)

    if name == 'last_checkpoint':
        run_toy(tmp_path, interrupt=4)
    monkeypatch.setattr(atomic_backend, 'write_synced', break_off)
    whole = name == 'last_checkpoint'
    said = None if whole else 'iter_6.pth cannot be written: .*good checkpoint is .*iter_3.pth'
    with pytest.raises(OSError, match=said):
        run_toy(tmp_path, checkpoint=dict(max_keep_ckpts=1), resume=whole)
    assert last_checkpoint(tmp_path)['meta']['iter'] == 3
    known = last_checkpoint(tmp_path)['message_hub']['runtime_info']['last_ckpt']
    assert known == str(tmp_path / 'iter_3.pth')
    monkeypatch.undo()
    assert run_toy(tmp_path, resume=True).iter == 16


def test_outdated_checkpoints_go_when_the_new_one_is_complete(tmp_path):
    leftover = tmp_path / '.iter_3.pth.abc123.pth'
    leftover.write_text('half a checkpoint')
    run_toy(tmp_path, checkpoint=dict(max_keep_ckpts=2))
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['iter_15.pth', 'iter_16.pth']
    assert not leftover.exists()


def test_those_that_are_kept_no_longer_go_when_a_run_is_resumed(tmp_path):
    run_toy(tmp_path, checkpoint=dict(max_keep_ckpts=3), interrupt=10)
    assert {path.name for path in tmp_path.glob('*.pth')} == {f'iter_{n}.pth' for n in (3, 6, 9)}
    run_toy(tmp_path, checkpoint=dict(max_keep_ckpts=2), interrupt=11, resume=True)
    assert {path.name for path in tmp_path.glob('*.pth')} == {'iter_6.pth', 'iter_9.pth'}


def test_logged_values_of_a_long_run_keep_within_the_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(runner_checkpoints, 'LOGGED_BYTES', 4 * 10**6)
    run_toy(tmp_path / 'cut', interrupt=14)
    run_toy(tmp_path / 'whole', seed=1)
    resumed = run_toy(tmp_path / 'cut', resume=True)
    histories = last_checkpoint(tmp_path / 'cut')['message_hub']['log_scalars']
    most = 10**8 // (4 * 10**6) // len(histories)
    assert 0 < most < 13
    assert {len(history.data[0]) for history in histories.values()} == {most}
    values = resumed.message_hub.get_scalar('train/loss').data[0]
    assert histories['train/loss'].data[0].tolist() == values[-most:].tolist()
    assert resumed.iter == 16


def test_checkpoints_between_accumulated_gradients_are_refused(tmp_path):
    wrapper = dict(accumulative_counts=2)
    with pytest.raises(ValueError, match='by interval, 3 iterations, .* to a multiple of 2'):
        run_toy(tmp_path, optim_wrapper=wrapper)
    with pytest.raises(ValueError, match='by save_begin, 3 iterations, would lose'):
        run_toy(tmp_path, optim_wrapper=wrapper, checkpoint=dict(interval=4, save_begin=3))
    assert run_toy(tmp_path, optim_wrapper=wrapper, checkpoint=dict(interval=4)).iter == 16


def test_checkpoints_of_epochs_between_accumulated_gradients_are_told(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(logging.Logger, 'warning', lambda self, text, *_: told.append(str(text)))
    epochs = dict(type='ResumableEpochLoop', max_epochs=1)
    for counts, folder in ((5, 'even'), (2, 'odd')):
        told.clear()
        wrapper = dict(accumulative_counts=counts)
        checkpoint = dict(by_epoch=True, interval=1)
        run_toy(tmp_path / folder, epochs, optim_wrapper=wrapper, checkpoint=checkpoint)
        lost = [text for text in told if 'lacks those of the last 1' in text]
        assert len(lost) == (folder == 'odd')


def test_counts_are_those_of_the_batches_over_all_runs(tmp_path):
    whole = run_toy(tmp_path / 'whole', seed=1)
    trained = [sample for sample, _ in read_by(whole)][: 16 * BATCH_SIZE]
    run_toy(tmp_path / 'resumed', seed=1, interrupt=8)
    run_toy(tmp_path / 'resumed', seed=1, resume=True)
    counts = last_checkpoint(tmp_path / 'resumed')['data_state']['counts']
    assert counts['toys']['read'] == sum(sample % 2 for sample in trained)
    assert counts['games']['read'] == sum(sample % 2 == 0 for sample in trained)
    assert counts['toys']['skipped'] == {'broken image': sum(n % 5 == 0 for n in trained)}
    (log, *_) = sorted((tmp_path / 'resumed').rglob('*.log'))
    assert 'samples_read' in next((tmp_path / 'whole').rglob('scalars.json')).read_text()
    assert log.exists()


def test_too_many_skipped_samples_end_the_run(tmp_path):
    limit = dict(max_skipped=0.2, min_samples=20)
    assert run_toy(tmp_path / 'few', data_state=limit).iter == 16
    with pytest.raises(RuntimeError) as error:
        run_toy(tmp_path / 'many', dataset=dict(skip=3), data_state=limit)
    assert 'of the samples were skipped, more than max_skipped=20.0%' in str(error.value)
    assert 'toys:' in str(error.value) and '(broken image ' in str(error.value)
