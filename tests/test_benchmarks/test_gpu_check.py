"""The GPU check: what is left when stages break, and that broken things are found."""

import json
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch

from pgseg_mm.models.layers import sync_batch_norm
from prepared_processes import run_python

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from benchmarks import gpu_bundle, gpu_check  # noqa: E402
from benchmarks.gpu import correct, matching, precision, report, waits  # noqa: E402
from benchmarks.gpu.stage import Piece, Stage  # noqa: E402

WRITES = """
import json, sys
out = sys.argv[sys.argv.index('--out') + 1]
piece = dict(summary='found', passed={passed}, rows=[dict(column=1)], figures=dict(one=1.0))
open(out, 'w').write(json.dumps(dict(piece={{**piece, 'seconds': 1.0}})))
"""


def entry(name: str, code: str, seconds: float = 60.0) -> gpu_check.StageEntry:
    return gpu_check.StageEntry(name, ('-c', code), seconds)


def check(folder: Path, *stages: gpu_check.StageEntry, minutes: float = 8.0, resume: bool = False):
    made = gpu_check.Check(folder, 'cpu', True, minutes, 'the command')
    kept = made.keep_earlier() if resume else []
    passed = made.run([stage for stage in stages if stage.name not in kept])
    made.write()
    return passed, json.loads((folder / 'raw' / 'gpu.json').read_text())


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path / 'out.json', 'cpu', True, 100.0)


def test_a_stage_that_crashes_or_hangs_leaves_the_results_of_the_others(tmp_path):
    good = WRITES.format(passed=True)
    stages = [
        entry('first', good),
        entry('crashes', good + 'import os; os.kill(os.getpid(), 11)'),
        entry('hangs', good + 'import time; time.sleep(600)', seconds=1.0),
        entry('fails', WRITES.format(passed=False)),
        entry('says nothing', ''),
        entry('last', good),
    ]
    passed, result = check(tmp_path, *stages)
    status = {name: stage['status'] for name, stage in result['stages'].items()}
    assert not passed
    assert status['first'] == status['last'] == 'passed'
    assert status['crashes'] == 'crashed: exit status -11'
    assert status['hangs'].startswith('ran over its')
    assert status['fails'] == status['says nothing'] == 'failed'
    # what a stage had found before it broke is kept, too
    assert all(result['stages'][name]['pieces'] for name in ('crashes', 'hangs', 'fails'))
    page = (tmp_path / 'gpu.md').read_text()
    assert page.count('| piece | ok | found |') == 4 and '| piece | **failed** | found |' in page
    assert 'A dry run' in page and result['commit'] and result['machine']['processor']


def test_it_ends_in_time(tmp_path):
    sleeper = 'import time; time.sleep(600)'
    passed, result = check(
        tmp_path, entry('one', sleeper, 1), entry('two', sleeper, 1), minutes=8 / 60
    )
    assert not passed
    assert sum(stage['seconds'] for stage in result['stages'].values()) < 20


def test_resuming_keeps_what_passed_at_the_same_commit(tmp_path, monkeypatch):
    check(tmp_path, entry('good', WRITES.format(passed=True)), entry('bad', 'raise SystemExit(3)'))
    again = [entry('good', 'raise SystemExit(4)'), entry('bad', WRITES.format(passed=True))]
    passed, result = check(tmp_path, *again, resume=True)
    assert passed and [s['status'] for s in result['stages'].values()] == ['passed'] * 2
    monkeypatch.setattr(gpu_check, 'commit', lambda: 'another')
    passed, result = check(tmp_path, *again, resume=True)
    assert not passed and result['stages']['good']['status'] == 'crashed: exit status 4'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--device', 'cpu'], 'add --small'),
        (['--device', 'cpu', '--small', '--out', str(ROOT / 'docs/benchmarks')], 'never written'),
        (['--device', 'cpu', '--small', '--minutes', '0'], 'must be positive'),
        (['--stages', 'dance'], 'invalid choice'),
    ],
)
def test_refuses_what_it_cannot_do(capsys, arguments, message):
    with pytest.raises(SystemExit) as leaving:
        gpu_check.parse_args(arguments)
    assert leaving.value.code == 2
    assert message in capsys.readouterr().err


def test_without_a_gpu_it_says_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit):
        gpu_check.parse_args([])
    assert 'there is no GPU that torch can use' in capsys.readouterr().err


def test_aims_are_met_or_not_or_not_measured():
    piece = {'summary': 's', 'passed': True, 'rows': [], 'seconds': 1.0}
    step = {**piece, 'figures': {'mfu': 0.41, 'npr bf16': 1.2, 'images_per_second': 3000.0}}
    data = {**piece, 'figures': {'loader 16': 2700.0}}
    stages = {
        name: {'status': 'passed', 'seconds': 1.0, 'pieces': {'piece': found}}
        for name, found in (('step', step), ('data', data))
    }
    result = {
        **{'small': False, 'device': 'cuda', 'commit': 'c', 'date': 'd', 'driver': '1'},
        **{'cuda': '13', 'command': 'x', 'versions': {}, 'stages': stages},
        'machine': {'processor': 'p', 'cores': 1, 'accelerator': 'g', 'python': '3', 'torch': '2'},
    }
    page = report.report(result)
    assert 'at least 40 % | 41.0 % | met |' in page
    assert 'at most 1.15 | 1.200 | **not met** |' in page
    assert 'at least 1 | 0.900 | **not met** |' in page
    assert 'under 5 % | | not measured |' in page


def test_a_piece_that_raises_or_has_no_time_is_a_result(stage):
    def broken() -> Piece:
        raise ValueError('of no use')

    stage.run('broken', broken)
    stage.run('late', lambda: Piece('found'), needs=1000.0)
    found = json.loads(stage.out.read_text())
    assert found['broken']['passed'] is False and 'of no use' in found['broken']['summary']
    assert found['late']['passed'] is None and 'no time left' in found['late']['summary']


def test_a_wrong_number_of_the_release_fails(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(Stage, 'command', lambda self, *words, check: run_python(words, cwd=ROOT))
    with np.load(ROOT / 'tests/data/parity/pgseg_tiny.npz') as file:
        arrays = {name: file[name] for name in file.files}
    arrays['eval_res/image_embed'] = arrays['eval_res/image_embed'] + 1e-3
    np.savez(tmp_path / 'wrong.npz', **arrays)
    found = correct.parity(stage, str(tmp_path / 'wrong.npz'))
    assert found.passed is False and 'image_embed' in found.summary


def test_statistics_that_follow_an_overflow_fail(stage, monkeypatch):
    assert precision.fp16_overflow(stage).passed

    def keep_all(norm, mean, var):
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        norm.num_batches_tracked += 1

    monkeypatch.setattr(sync_batch_norm, 'keep_finite', torch.no_grad()(keep_all))
    found = precision.fp16_overflow(stage)
    assert found.passed is False and 'running_mean' in found.summary


def test_another_gradient_fails(stage, monkeypatch):
    assert precision.same_as_on_the_cpu(stage).passed
    calls = iter((1.0, 1.0 + 1e-5))
    make_batch = precision.make_batch

    def another(*args):
        images, tokens = make_batch(*args)
        return images * next(calls), tokens

    monkeypatch.setattr(precision, 'make_batch', another)
    assert precision.same_as_on_the_cpu(stage).passed is False


def test_half_precision_that_is_off_fails(stage, monkeypatch):
    train = precision.train_in_precision
    monkeypatch.setattr(
        precision,
        'train_in_precision',
        lambda option, *args: [
            loss * (1.05 if option.precision == 'bf16' else 1) for loss in train(option, *args)
        ],
    )
    found = precision.half_precision(stage)
    assert found.passed is False and len(found.rows) == 3


def test_a_wrong_match_fails(stage, monkeypatch):
    assert matching.same_match(stage).passed
    monkeypatch.setattr(matching, 'match_prototypes', lambda s: s.argmin(dim=2))
    assert matching.same_match(stage).passed is False


def test_waits_are_told_by_their_place():
    def stack(*frames):
        return traceback.StackSummary.from_list([(file, 1, name, None) for file, name in frames])

    torch_frame = ('/site/torch/_tensor.py', '__float__')
    clipped = stack(
        ('/site/mmengine/optim/optimizer/optimizer_wrapper.py', '_clip_grad'), torch_frame
    )
    assert waits.place_of(clipped)[1] == "the gradient's norm is logged"
    other = stack(('/here/pgseg_mm/models/losses/npr_loss.py', '_kept'), torch_frame)
    place, why = waits.place_of(other)
    assert why == '' and place == 'models/losses/npr_loss.py:1 in _kept'


def test_the_bundle_has_what_the_roots_need_and_the_machine_lacks():
    found = gpu_bundle.missing(['onedl-mmsegmentation', 'ftfy'], gpu_bundle.HAS.split(), '3.12')
    assert {'onedl-mmsegmentation', 'ftfy', 'wcwidth', 'prettytable'} <= found.keys()
    assert not {'torch', 'numpy', 'scipy', 'matplotlib'} & found.keys()


def test_a_bundle_takes_the_place_of_a_bundle_alone(tmp_path, monkeypatch, capsys):
    kept = tmp_path / 'mine' / 'thesis.txt'
    kept.parent.mkdir()
    kept.write_text('five years')
    monkeypatch.setattr(sys, 'argv', ['gpu_bundle', '--out', str(kept.parent)])
    with pytest.raises(SystemExit) as left:
        gpu_bundle.main()
    assert left.value.code == 2 and kept.is_file()
    assert 'is there and no bundle' in capsys.readouterr().err
    monkeypatch.setattr(gpu_bundle, 'missing', lambda *_: sys.exit('made anew'))
    (tmp_path / 'broken off' / 'wheels').mkdir(parents=True)
    monkeypatch.setattr(sys, 'argv', ['gpu_bundle', '--out', str(tmp_path / 'broken off')])
    with pytest.raises(SystemExit, match='made anew'):
        gpu_bundle.main()


@pytest.mark.parametrize(
    ('name', 'fits'),
    [
        ('a-1-py3-none-any.whl', True),
        ('a-1-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl', True),
        ('a-1-cp311-cp311-linux_x86_64.whl', False),  # as one that was built here is called
        ('a-1-cp312-cp312-manylinux_2_17_aarch64.whl', False),
    ],
)
def test_wheels_of_the_bundle_are_for_its_machine(name, fits):
    assert gpu_bundle.fits(name.rpartition('-')[2], 'x86_64') is fits
