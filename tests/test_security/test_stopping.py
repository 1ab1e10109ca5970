"""A run that is told to end loses nothing."""

import signal
from pathlib import Path

import pytest

from killed_runs import assert_equal, last_checkpoint, make_pairs, train, write_config
from stopped_runs import add_sender

COMPARED = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'data_state')
SEED = ['--cfg-options', 'randomness.seed=3']


@pytest.fixture(scope='module')
def pairs(tmp_path_factory) -> Path:
    return make_pairs(tmp_path_factory.mktemp('pairs') / 'data')


def assert_resumed_alike(config, folder, processes=1):
    whole = train(config, folder / 'whole', *SEED, processes=processes)
    resumed = train(config, folder / 'stopped', '--resume', *SEED, processes=processes)
    assert whole.returncode == resumed.returncode == 0, resumed.stderr[-3000:]
    expected, found = (last_checkpoint(folder / name) for name in ('whole', 'stopped'))
    for key in COMPARED:
        assert_equal(expected[key], found[key], key)


@pytest.mark.parametrize(
    ('send', 'by_epoch'),
    [(f'8:workers:0:{signal.SIGTERM:d}', False), (f'13:after:0:{signal.SIGINT:d}', True)],
    ids=['SIGTERM to all processes', 'SIGINT'],
)
def test_it_writes_a_checkpoint_that_goes_on_exactly(pairs, tmp_path, send, by_epoch):
    config = add_sender(
        write_config(tmp_path / 'config.py', pairs, workers=2, by_epoch=by_epoch, shards=True)
    )
    stopped = train(config, tmp_path / 'stopped', *SEED, send=send)
    step, number = int(send.split(':')[0]), int(send.split(':')[-1])
    assert stopped.returncode == 128 + number, stopped.stderr[-3000:]
    assert f'behind step {step}; --resume goes on from' in stopped.stdout + stopped.stderr
    assert last_checkpoint(tmp_path / 'stopped')['meta']['iter'] == step
    assert_resumed_alike(config, tmp_path)


def test_all_ranks_end_behind_the_same_step(pairs, tmp_path):
    config = add_sender(write_config(tmp_path / 'config.py', pairs, workers=0, by_epoch=True))
    send = f'5:before:1:{signal.SIGTERM:d}'
    stopped = train(config, tmp_path / 'stopped', *SEED, processes=2, send=send)
    assert stopped.returncode != 0
    assert 'exitcode  : 143' in stopped.stderr, stopped.stderr[-3000:]
    assert last_checkpoint(tmp_path / 'stopped')['meta']['iter'] == 5
    assert_resumed_alike(config, tmp_path, processes=2)
