"""A run goes on from its own newest checkpoint, touches nothing else, and shares no folder."""

import errno
import fcntl
import logging
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.runner import Runner
from mmseg.registry import METRICS

from held_folders import hold_folder
from killed_runs import last_checkpoint
from pgseg_mm.engine.hooks.safe_checkpoint_hook import SafeCheckpointHook
from pgseg_mm.serialization import work_folders
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.runner_checkpoints import load_checkpoints_safely
from pgseg_mm.serialization.work_folders import (
    FolderInUseError,
    find_checkpoint,
    lock_folder,
    unlock_folder,
)
from prepared_processes import prepared
from toy_runs import BATCH_SIZE, InterruptedError, read_by, run_toy, toy_config

BEST = dict(save_best='score', rule='greater')


@METRICS.register_module(force=True)
class RisingMetric(BaseMetric):
    """A score that is better each time."""

    score = 0.0

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        type(self).score += 1
        return {'score': type(self).score}


def run_with_best(folder, **settings):
    """A run that validates, and keeps its best checkpoint."""
    settings['checkpoint'] = BEST | settings.get('checkpoint', {})
    cfg = toy_config(
        folder, dict(type='ResumableIterLoop', max_iters=16, val_interval=4), **settings
    )
    loader = {k: v for k, v in cfg.train_dataloader.items() if k not in ('sampler', 'drop_last')}
    cfg.val_dataloader = loader | dict(sampler=dict(type='DefaultSampler', shuffle=False))
    cfg.val_cfg, cfg.val_evaluator = dict(type='ToyValLoop'), dict(type='RisingMetric')
    runner = Runner.from_cfg(cfg)
    try:
        runner.train()
    except InterruptedError:
        assert runner.iter + 1 == settings['interrupt']
    return runner


def lacking(name):
    def edit(content):
        del content['data_state'][name]

    return edit


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (lacking('epoch'), "its data_state lacks 'epoch'"),
        (lacking('streams'), "its data_state lacks 'streams'"),
        (lambda content: content['data_state'].update(consumed='all'), 'is none of a run'),
        (lambda content: content['data_state'].update(streams=[]), 'is none of a run'),
        (lambda content: content['data_state'].update(layout=3), 'its data_state lacks'),
        (lambda content: content['data_state'].update(counts={'a': {}}), "lacks 'read'"),
    ],
)
def test_a_damaged_state_of_the_data_is_named(tmp_path, edit, message):
    run_toy(tmp_path / 'run', interrupt=8)
    change(find_checkpoint(tmp_path / 'run'), edit)
    with pytest.raises(CheckpointError, match=message):
        run_toy(tmp_path / 'run', resume=True)


def change(path, edit):
    """Change a checkpoint of a run."""
    content = torch.load(path, weights_only=False)
    edit(content)
    torch.save(content, path)


from mmengine.runner import BaseLoop  # noqa: E402
from mmseg.registry import LOOPS  # noqa: E402


@LOOPS.register_module(force=True)
class ToyValLoop(BaseLoop):
    """A validation without a model."""

    def __init__(self, runner, dataloader, evaluator):
        super().__init__(runner, dataloader)

    def run(self):
        RisingMetric.score += 1
        self.runner.call_hook('after_val_epoch', metrics={'score': RisingMetric.score})


@pytest.mark.parametrize('kind', ['file', 'tree', 'link out of the folder', 'odd name', 'number'])
def test_a_best_checkpoint_elsewhere_is_left_as_it_is(tmp_path, kind):
    run, outside = tmp_path / 'run', tmp_path / 'outside'
    run_with_best(run, interrupt=10)
    outside.mkdir()
    (outside / 'best_score_iter_1.pth').write_text('precious')
    named = {
        'file': str(outside / 'best_score_iter_1.pth'),
        'tree': str(outside),
        'link out of the folder': str(run / '..' / 'outside' / 'best_score_iter_1.pth'),
        'odd name': str(run / 'iter_3.pth'),
        'number': 7,
    }[kind]

    def edit(content):
        content['message_hub']['runtime_info']['best_ckpt'] = named

    change(run / 'iter_9.pth', edit)
    own = [path.name for path in run.glob('best_*.pth')]
    run_with_best(run, resume=True)
    assert (outside / 'best_score_iter_1.pth').read_text() == 'precious'
    assert (run / 'iter_3.pth').is_file()
    assert set(own) <= {path.name for path in run.glob('best_*.pth')}


def test_a_tree_that_is_named_like_a_best_checkpoint_stays(tmp_path):
    run_with_best(tmp_path, interrupt=10)
    (best,) = tmp_path.glob('best_*.pth')
    best.unlink()
    best.mkdir()
    (best / 'precious').touch()
    run_with_best(tmp_path, resume=True)
    assert (best / 'precious').exists()


def test_a_copy_of_a_work_folder_leaves_the_original_alone(tmp_path):
    run_with_best(tmp_path / 'original', interrupt=10)
    before = sorted(path.name for path in (tmp_path / 'original').glob('*.pth'))
    shutil.copytree(tmp_path / 'original', tmp_path / 'copy')
    runner = run_with_best(tmp_path / 'copy', resume=True)
    assert runner.iter == 16
    assert sorted(path.name for path in (tmp_path / 'original').glob('*.pth')) == before
    assert (tmp_path / 'copy' / 'iter_16.pth').is_file()
    assert len(list((tmp_path / 'copy').glob('best_*.pth'))) == 1  # its own was replaced


@pytest.mark.parametrize('kept', [['../../x', 3, True, -1, 10**9], '12', None])
def test_outdated_checkpoints_are_numbers_of_this_run(tmp_path, kept):
    run_toy(tmp_path, interrupt=8)

    def edit(content):
        content['message_hub']['runtime_info']['keep_ckpt_ids'] = kept
        content['message_hub']['resumed_keys']['keep_ckpt_ids'] = True

    change(tmp_path / 'iter_6.pth', edit)
    run_toy(tmp_path, resume=True, checkpoint=dict(max_keep_ckpts=2))
    assert last_checkpoint(tmp_path)['meta']['iter'] == 16


@pytest.mark.parametrize('number', [2, 1])
def test_a_checkpoint_of_another_folder_removes_none_here(tmp_path, number):
    run_toy(tmp_path / 'other', interrupt=14)  # after 3, 6, 9 and 12 steps
    before = []
    for step in (3, 6, 9):
        path = tmp_path / 'run' / f'iter_{step}.pth'
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b'no checkpoint')
        before.append(path)

    def edit(content):
        content['message_hub']['runtime_info']['keep_ckpt_ids'] = [3, 6, 9]
        content['message_hub']['resumed_keys']['keep_ckpt_ids'] = True

    begin = tmp_path / 'other' / 'iter_12.pth'
    change(begin, edit)
    cfg = toy_config(tmp_path / 'run', resume=True, checkpoint=dict(max_keep_ckpts=number))
    cfg.load_from = str(begin)
    load_checkpoints_safely()
    runner = Runner.from_cfg(cfg)
    hook = next(hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook))
    hook._choose_checkpoint = lambda runner: (True, str(begin))  # as if there were none here
    runner.train()
    assert [path for path in before if path.exists()] == before


def test_a_checkpoint_at_an_address_is_resumed_from(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    run_toy(tmp_path / 'theirs', interrupt=8)
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / 'theirs')
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            cfg = toy_config(tmp_path / 'mine', resume=True)
            cfg.load_from = f'http://127.0.0.1:{server.server_port}/iter_6.pth'
            load_checkpoints_safely()
            runner = Runner.from_cfg(cfg)
            runner.train()
        finally:
            server.shutdown()
    assert len(read_by(runner)) == (16 - 6) * BATCH_SIZE


def test_a_name_of_any_length_is_passed_over(tmp_path):
    run_toy(tmp_path, interrupt=8)
    (tmp_path / 'last_checkpoint').write_text('x' * 4000 + '.pth')
    assert find_checkpoint(tmp_path) == tmp_path / 'iter_6.pth'


def test_a_best_score_that_is_no_number_is_not_used(tmp_path):
    run_with_best(tmp_path, interrupt=10)

    def edit(content):
        content['message_hub']['runtime_info']['best_score'] = 'high'

    change(tmp_path / 'iter_9.pth', edit)
    assert run_with_best(tmp_path, resume=True).iter == 16


def test_the_newest_is_named_without_its_folder(tmp_path):
    run_toy(tmp_path / 'run', interrupt=8, seed=1)
    assert (tmp_path / 'run' / 'last_checkpoint').read_text() == 'iter_6.pth'
    (tmp_path / 'run').rename(tmp_path / 'moved')
    whole = run_toy(tmp_path / 'whole', seed=1)
    moved = run_toy(tmp_path / 'moved', resume=True, seed=1)
    assert read_by(moved) == read_by(whole)[6 * BATCH_SIZE :]


def test_a_path_of_another_folder_means_the_file_of_that_name(tmp_path):
    run_toy(tmp_path / 'a', interrupt=8)
    (tmp_path / 'b').mkdir()
    shutil.copy(tmp_path / 'a' / 'iter_3.pth', tmp_path / 'b')
    (tmp_path / 'b' / 'last_checkpoint').write_text(str(tmp_path / 'a' / 'iter_3.pth'))
    (tmp_path / 'a' / 'iter_3.pth').unlink()
    assert find_checkpoint(tmp_path / 'b') == tmp_path / 'b' / 'iter_3.pth'


DAMAGE = {
    'no last_checkpoint': lambda folder: (folder / 'last_checkpoint').unlink(),
    'an empty last_checkpoint': lambda folder: (folder / 'last_checkpoint').write_text(''),
    'odd bytes in it': lambda folder: (folder / 'last_checkpoint').write_bytes(b'\xff\0' * 9),
    'the latest is missing': lambda folder: (folder / 'iter_6.pth').unlink(),
    'the latest is cut': lambda folder: (folder / 'iter_6.pth').write_bytes(
        (folder / 'iter_6.pth').read_bytes()[:5000]
    ),
    'the latest is empty': lambda folder: (folder / 'iter_6.pth').write_bytes(b''),
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_the_newest_that_can_be_read_is_used(tmp_path, damage, caplog, monkeypatch):
    warnings = []
    monkeypatch.setattr(
        work_folders, 'print_log', lambda text, logger, level: warnings.append((level, text))
    )
    run_toy(tmp_path, interrupt=8)
    DAMAGE[damage](tmp_path)
    saved = 6 if (tmp_path / 'iter_6.pth').exists() and 'is' not in damage.split() else 3
    runner = run_toy(tmp_path, resume=True)
    assert len(read_by(runner)) >= (16 - saved) * BATCH_SIZE
    assert len(read_by(runner)) < 16 * BATCH_SIZE + BATCH_SIZE * (6 - saved)
    ((level, text),) = warnings
    assert level == logging.WARNING and f'iter_{saved}.pth' in text


def test_nothing_is_overwritten_if_nothing_can_be_used(tmp_path):
    run_toy(tmp_path, interrupt=8)
    for path in tmp_path.glob('iter_*.pth'):
        path.write_bytes(b'broken')
    with pytest.raises(CheckpointError, match=r'none of the checkpoints .*iter_6.*start anew'):
        run_toy(tmp_path, resume=True)
    assert {path.read_bytes() for path in tmp_path.glob('iter_*.pth')} == {b'broken'}


def test_an_empty_folder_is_begun_in(tmp_path):
    assert run_toy(tmp_path, resume=True).iter == 16


@pytest.mark.parametrize('meta', [{}, {'meta': {'iter': 8, 'epoch': 0}}], ids=['bare', 'published'])
def test_the_weights_that_a_run_began_with_do_not_replace_those_it_has(tmp_path, meta):
    run_toy(tmp_path / 'run', interrupt=8, seed=1)
    state = torch.load(tmp_path / 'run' / 'iter_3.pth', weights_only=False)['state_dict']
    torch.save({'state_dict': state, **meta}, tmp_path / 'begin.pth')
    cfg = toy_config(tmp_path / 'run', resume=True, seed=1)
    cfg.load_from = str(tmp_path / 'begin.pth')
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert len(read_by(runner)) < 16 * BATCH_SIZE
    cfg = toy_config(tmp_path / 'new', resume=True, seed=1)
    cfg.load_from = str(tmp_path / 'begin.pth')
    Runner.from_cfg(cfg).train()
    assert last_checkpoint(tmp_path / 'new')['meta']['iter'] == 16


@pytest.fixture
def holder(tmp_path):
    held = prepared.Event()
    process = prepared.Process(target=hold_folder, args=(str(tmp_path), held))
    process.start()
    assert held.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_folder_has_one_run_at_a_time(tmp_path, holder):
    writing = tmp_path / f'.iter_3.pth.~host~{holder.pid}~0123abcd.pth'
    writing.write_text('half a checkpoint')
    with pytest.raises(FolderInUseError, match=f'in use by process {holder.pid} on .* since'):
        run_toy(tmp_path)
    assert writing.exists()
    assert not list(tmp_path.glob('iter_*.pth'))
    holder.kill()
    holder.join()
    assert run_toy(tmp_path).iter == 16


def test_a_folder_is_free_when_its_run_is_over(tmp_path):
    run_toy(tmp_path)
    process = prepared.Process(target=lock_folder, args=(str(tmp_path),))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, 'No locks available')

    warnings = []
    monkeypatch.setattr(fcntl, 'lockf', refuse)
    monkeypatch.setattr(work_folders, 'print_log', lambda text, **_: warnings.append(text))
    lock_folder(tmp_path)
    unlock_folder(tmp_path)
    assert 'without locks' in warnings[0]
