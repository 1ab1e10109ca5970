"""A run that was killed and resumed ends with the weights of one that was not, bit for bit."""

from pathlib import Path

import pytest

from killed_runs import (
    assert_equal,
    last_checkpoint,
    make_pairs,
    random_kills,
    train,
    was_killed,
    write_config,
)

COMPARED = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'data_state')


@pytest.fixture(scope='module')
def pairs(tmp_path_factory) -> Path:
    return make_pairs(tmp_path_factory.mktemp('pairs') / 'data')


def check(config: Path, folder: Path, kills: list[str], processes: int) -> None:
    seed = ['--cfg-options', 'randomness.seed=3']
    whole = train(config, folder / 'whole', *seed, processes=processes)
    assert whole.returncode == 0, whole.stderr[-3000:]
    for kill in kills:
        killed = train(config, folder / 'killed', '--resume', *seed, processes=processes, kill=kill)
        assert killed.returncode != 0 and was_killed(killed), killed.stderr[-3000:]
    resumed = train(config, folder / 'killed', '--resume', *seed, processes=processes)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert 'resumed epoch' in resumed.stdout + resumed.stderr
    expected, found = (last_checkpoint(folder / name) for name in ('whole', 'killed'))
    for key in COMPARED:
        assert_equal(expected[key], found[key], key)


def test_shards_with_workers_and_a_kill_while_saving(pairs, tmp_path):
    config = write_config(tmp_path / 'config.py', pairs, workers=2, by_epoch=False, shards=True)
    check(config, tmp_path, ['9:saving:0'], processes=1)


@pytest.mark.parametrize('shards', [False, True], ids=['files', 'shards'])
@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('processes', [1, 2])
@pytest.mark.parametrize('by_epoch', [False, True], ids=['iterations', 'epochs'])
def test_many_kills(request, pairs, tmp_path, shards, workers, processes, by_epoch):
    number = request.config.getoption('--kill-runs')
    if not number:
        pytest.skip('give --kill-runs 5')
    config = write_config(tmp_path / 'config.py', pairs, workers, by_epoch, shards)
    steps = 33 // processes if by_epoch else 16
    seed = 8 * shards + 4 * by_epoch + 2 * (processes - 1) + workers // 2
    check(config, tmp_path, random_kills(number, steps - 1, processes, seed), processes)
