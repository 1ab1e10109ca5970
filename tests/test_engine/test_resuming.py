import logging

import pytest
import torch
import torch.distributed as dist
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from mmseg.registry import DATA_SAMPLERS
from torch import nn
from torch.utils.data import BatchSampler

from distributed import on_two_ranks
from killed_runs import assert_equal, last_checkpoint
from pgseg_mm.engine.hooks import data_state_hook
from pgseg_mm.engine.optimizers.resumed_state import check_state
from toy_runs import BATCH_SIZE, read_by, run_toy, toy_config

ITERATIONS = dict(type='ResumableIterLoop', max_iters=16)
SKIPS_BATCHES = hasattr(_InfiniteDataloaderIterator, 'skip_iter')
"""Whether mmengine's own loop by iterations goes on without loading what was read."""
PLAIN_ITERATIONS = dict(type='IterBasedTrainLoop', max_iters=16)
EPOCHS = dict(type='ResumableEpochLoop', max_epochs=3)
PLAIN_EPOCHS = dict(type='EpochBasedTrainLoop', max_epochs=3)
STEPS_OF_EPOCH = 5

COMPARED = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'data_state')


def interrupted_and_resumed(folder, loop, interrupt, **settings):
    run_toy(folder, loop, interrupt=interrupt, **settings)
    return run_toy(folder, loop, resume=True, **settings)


def assert_same_end(one, other):
    expected, found = last_checkpoint(one), last_checkpoint(other)
    for key in COMPARED:
        assert_equal(expected[key], found[key], key)


@pytest.mark.parametrize(
    ('loop', 'interval', 'interrupt'),
    [
        (ITERATIONS, 3, 8),
        (ITERATIONS, 5, 5),
        (EPOCHS, 3, 8),
        (EPOCHS, STEPS_OF_EPOCH, STEPS_OF_EPOCH),
        (EPOCHS, STEPS_OF_EPOCH, STEPS_OF_EPOCH + 2),
        (PLAIN_EPOCHS, 3, 8),
        pytest.param(
            PLAIN_ITERATIONS,
            3,
            8,
            marks=pytest.mark.skipif(
                not SKIPS_BATCHES, reason='the loop of this mmengine cannot skip what was read'
            ),
        ),
    ],
)
def test_a_resumed_run_reads_the_rest_and_ends_alike(tmp_path, loop, interval, interrupt):
    checkpoint = dict(interval=interval)
    whole = run_toy(tmp_path / 'whole', loop, seed=1, checkpoint=checkpoint)
    resumed = interrupted_and_resumed(
        tmp_path / 'resumed', loop, interrupt, seed=1, checkpoint=checkpoint
    )
    saved = interrupt // interval * interval
    ahead = len(read_by(whole)) - len(read_by(resumed))
    assert ahead == saved * BATCH_SIZE  # nothing is decoded that was trained on
    assert read_by(resumed) == read_by(whole)[ahead:]
    assert_same_end(tmp_path / 'whole', tmp_path / 'resumed')


@pytest.mark.skipif(SKIPS_BATCHES, reason='the loop of this mmengine can skip what was read')
def test_a_loop_that_would_read_again_is_refused(tmp_path):
    with pytest.raises(ValueError, match="use train_cfg=dict.type='ResumableIterLoop'"):
        run_toy(tmp_path, PLAIN_ITERATIONS)


def test_a_checkpoint_by_epochs_begins_the_next_one(tmp_path):
    checkpoint = dict(by_epoch=True, interval=1)
    whole = run_toy(tmp_path / 'whole', EPOCHS, seed=1, checkpoint=checkpoint)
    resumed = interrupted_and_resumed(tmp_path / 'r', EPOCHS, 7, seed=1, checkpoint=checkpoint)
    assert read_by(resumed) == read_by(whole)[STEPS_OF_EPOCH * BATCH_SIZE :]
    assert_same_end(tmp_path / 'whole', tmp_path / 'r')


def test_a_seed_that_nobody_chose_is_kept(tmp_path):
    first = run_toy(tmp_path, interrupt=8)
    resumed = run_toy(tmp_path, resume=True)
    assert resumed.seed == first.seed
    assert resumed.train_dataloader.sampler.seed == first.train_dataloader.sampler.seed
    assert read_by(resumed)[:8] == read_by(first)[-8:]
    other = run_toy(tmp_path / 'other', interrupt=2)
    assert read_by(other) != read_by(first)[:8]


def test_another_batch_size_goes_on_with_the_same_order(tmp_path):
    whole = run_toy(tmp_path / 'whole', seed=1)
    run_toy(tmp_path / 'resumed', seed=1, interrupt=8)
    resumed = run_toy(tmp_path / 'resumed', seed=1, batch_size=2, resume=True)
    assert read_by(resumed) == read_by(whole)[6 * BATCH_SIZE :][: 10 * 2]


def test_batches_of_a_resumed_epoch_keep_their_numbers(tmp_path, monkeypatch):
    seen = []
    hook = data_state_hook.DataStateHook
    count = hook.after_train_iter

    def spy(self, runner, batch_idx, **kwargs):
        seen.append(batch_idx)
        return count(self, runner, batch_idx, **kwargs)

    monkeypatch.setattr(hook, 'after_train_iter', spy)
    run_toy(tmp_path, EPOCHS, interrupt=8)
    assert seen == [0, 1, 2, 3, 4, 0, 1, 2]
    seen.clear()
    run_toy(tmp_path, EPOCHS, resume=True)
    assert seen == [1, 2, 3, 4, 0, 1, 2, 3, 4]


def test_streams_are_told_where_they_stood(tmp_path):
    dataset = dict(stream=True)
    first = run_toy(tmp_path, interrupt=8, dataset=dataset).train_dataloader
    begin = dict(epoch=None, begin=0, first_worker=0)
    assert first.dataset.progress == [
        dict(batch_size=BATCH_SIZE, states={}, seed=first.sampler.seed, **begin)
    ]
    resumed = run_toy(tmp_path, resume=True, dataset=dataset).train_dataloader.dataset
    last_saved = 6 * BATCH_SIZE - 1
    assert resumed.progress[0]['states'] == {0: {'at': last_saved}}
    assert resumed.read[0].position == last_saved + 1 == resumed.progress[0]['begin']


def test_streams_warn_of_another_batch_size(tmp_path, caplog):
    run_toy(tmp_path, interrupt=8, dataset=dict(stream=True))
    with caplog.at_level(logging.WARNING):
        warnings = []
        patch = pytest.MonkeyPatch()
        patch.setattr(
            data_state_hook.DataStateHook,
            '_describe_change',
            staticmethod(lambda changed: warnings.append(changed) or 'changed'),
        )
        run_toy(tmp_path, resume=True, batch_size=2, dataset=dict(stream=True))
        patch.undo()
    assert warnings == [['batch_size 4 -> 2']]


@pytest.mark.parametrize(
    ('loop', 'infinite'), [(ITERATIONS, False), (EPOCHS, True)], ids=['iterations', 'epochs']
)
def test_loops_and_samplers_have_to_fit(tmp_path, loop, infinite):
    cfg = toy_config(tmp_path, loop)
    cfg.train_dataloader.sampler.infinite = infinite
    with pytest.raises(ValueError, match=f'needs a ResumableSampler with infinite={not infinite}'):
        Runner.from_cfg(cfg).train()


def _two_ranks(rank, folder):
    def run(name, **settings):
        try:
            return run_toy(folder / name, EPOCHS_OF_TWO, dataset=dict(stream=True), **settings)
        finally:
            dist.barrier()

    whole = run('whole', seed=1)
    run('resumed', seed=1, interrupt=5)
    resumed = run('resumed', seed=1, resume=True)
    assert isinstance(whole, Runner)
    states = resumed.train_dataloader.dataset.progress[0]['states']
    return read_by(whole), read_by(resumed), states, torch.rand(1)


EPOCHS_OF_TWO = dict(type='ResumableEpochLoop', max_epochs=3)  # of two steps each


def test_every_rank_goes_on_with_its_own_share(tmp_path):
    ranks = on_two_ranks(_two_ranks, tmp_path, folder=tmp_path)
    for whole, resumed, states, _ in ranks:
        assert len(whole) == 3 * 2 * BATCH_SIZE
        assert resumed == whole[3 * BATCH_SIZE :]
        assert states == {0: {'at': BATCH_SIZE - 1}}
    assert set(ranks[0][0]).isdisjoint(ranks[1][0])
    assert not torch.equal(ranks[0][3], ranks[1][3])
    state = last_checkpoint(tmp_path / 'resumed')['data_state']
    assert_equal(state, last_checkpoint(tmp_path / 'whole')['data_state'])
    assert sum(entry['read'] for entry in state['counts'].values()) == 2 * 6 * BATCH_SIZE
    assert len(state['streams']) == 2


class Pairs(BatchSampler):
    def __init__(self, sampler, batch_size):
        super().__init__(sampler, 2, drop_last=True)


def test_batches_of_a_sampler_of_ones_own_are_counted(tmp_path, monkeypatch):
    monkeypatch.setitem(DATA_SAMPLERS.module_dict, 'Pairs', Pairs)
    cfg = toy_config(tmp_path / 'run', dict(type='ResumableEpochLoop', max_epochs=2))
    cfg.train_dataloader.pop('drop_last')
    cfg.train_dataloader.batch_sampler = dict(type='Pairs')
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2 * (len(runner.train_dataloader.dataset) // 2)
    assert runner.train_dataloader.batch_size is None


@pytest.mark.gpu
@pytest.mark.parametrize('settings', [{}, {'fused': True}])
def test_counts_of_steps_are_where_the_optimizer_reads_them(settings):
    """What is loaded to a GPU would have each step wait for it."""
    model = nn.Linear(2, 2).cuda()
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), **settings))
    state = {'exp_avg': torch.zeros, 'exp_avg_sq': torch.zeros}
    for parameter in model.parameters():
        wrapper.optimizer.state[parameter] = {
            'step': torch.tensor(3.0, device='cuda'),
            **{name: make(parameter.shape, device='cuda') for name, make in state.items()},
        }
    check_state(wrapper, 'a.pth')
    places = {value['step'].device.type for value in wrapper.optimizer.state.values()}
    assert places == {'cuda' if settings else 'cpu'}
