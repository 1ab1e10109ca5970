import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

TOOLS = Path(__file__).parents[2] / 'tools'
CONFIG = """
train_dataloader = dict(batch_size=1)
train_cfg = dict(max_iters=1)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
default_hooks = dict(visualization=dict(type='SegVisualizationHook'))
visualizer = dict(type='SegLocalVisualizer')
test_evaluator = dict(type='IoUMetric')
test_cfg = dict()
test_dataloader = dict(dataset=dict(pipeline=['plain']))
tta_pipeline = ['flipped']
tta_model = dict(type='SegTTAModel')
model = dict(type='Net')
"""


class FakeRunner:
    """Stands in for MMEngine's Runner and keeps the config it was given."""

    def __init__(self, cfg):
        self.cfg = cfg
        self.called = []
        self.train_loop = self.val_loop = self.test_loop = None
        FakeRunner.last = self

    from_cfg = classmethod(lambda cls, cfg: cls(cfg))

    def train(self):
        self.called.append('train')

    def test(self):
        self.called.append('test')


def run(monkeypatch, tool, *arguments):
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
    runpy.run_path(str(TOOLS / tool), run_name='__main__')


@pytest.fixture
def config(tmp_path, monkeypatch):
    path = tmp_path / 'tiny.py'
    path.write_text(CONFIG)
    monkeypatch.chdir(tmp_path)  # folders for results are made there
    monkeypatch.setattr('mmengine.runner.Runner', FakeRunner)
    monkeypatch.setenv('LOCAL_RANK', '0')
    return path


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'last.pth'
    path.touch()
    return path


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
def test_help(monkeypatch, capsys, tool):
    with pytest.raises(SystemExit) as leaving:
        run(monkeypatch, tool, '--help')
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    for flag in ('--work-dir', '--cfg-options', '--launcher', '--local-rank'):
        assert flag in shown


@pytest.mark.parametrize(
    ('tool', 'arguments'), [('train.py', ['absent.py']), ('test.py', ['absent.py', 'absent.pth'])]
)
def test_missing_config_is_refused(monkeypatch, capsys, tool, arguments):
    with pytest.raises(SystemExit) as leaving:
        run(monkeypatch, tool, *arguments)
    assert leaving.value.code == 2
    assert 'error: config file not found: absent.py' in capsys.readouterr().err


def test_missing_checkpoint_is_refused(monkeypatch, capsys, config):
    with pytest.raises(SystemExit):
        run(monkeypatch, 'test.py', config, 'absent.pth')
    assert 'error: checkpoint file not found: absent.pth' in capsys.readouterr().err


def test_tool_runs_from_any_directory(tmp_path):
    tool = subprocess.run(
        [sys.executable, TOOLS / 'train.py', 'absent.py'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tool.returncode == 2
    assert 'config file not found' in tool.stderr


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_distributed_script_says_how_it_is_used(script):
    tool = subprocess.run([TOOLS / script], capture_output=True, text=True, check=False)
    assert tool.returncode == 2
    assert tool.stderr.startswith('usage:')


def test_train_hands_its_arguments_to_the_runner(monkeypatch, config, tmp_path):
    options = ['--cfg-options', 'optim_wrapper.optimizer.lr=0.5', '--resume']
    run(monkeypatch, 'train.py', config, '--work-dir', tmp_path, *options)
    runner = FakeRunner.last
    assert runner.called == ['train']
    assert runner.cfg.resume
    assert runner.cfg.work_dir == str(tmp_path)
    assert runner.cfg.optim_wrapper.optimizer.lr == 0.5


@pytest.mark.parametrize(
    ('options', 'backend'), [(['--compile'], 'inductor'), (['--compile', 'eager'], 'eager')]
)
def test_compile_adds_a_hook(monkeypatch, config, options, backend):
    run(monkeypatch, 'train.py', config, *options)
    assert FakeRunner.last.cfg.custom_hooks == [{'type': 'mmseg.CompileHook', 'backend': backend}]


def test_amp_is_refused_without_accelerator(monkeypatch, capsys, config):
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cpu')
    with pytest.raises(SystemExit):
        run(monkeypatch, 'train.py', config, '--amp')
    assert '--amp needs an accelerator' in capsys.readouterr().err


def test_amp_switches_the_optimizer_wrapper(monkeypatch, config):
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cuda')
    run(monkeypatch, 'train.py', config, '--amp')
    wrapper = FakeRunner.last.cfg.optim_wrapper
    assert (wrapper.type, wrapper.loss_scale) == ('AmpOptimWrapper', 'dynamic')


def test_amp_refuses_another_wrapper(monkeypatch, capsys, config):
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cuda')
    options = ['--cfg-options', 'optim_wrapper.type=ApexOptimWrapper']
    with pytest.raises(SystemExit):
        run(monkeypatch, 'train.py', config, '--amp', *options)
    assert 'the config has ApexOptimWrapper' in capsys.readouterr().err


def test_test_hands_its_arguments_to_the_runner(monkeypatch, config, checkpoint):
    options = ['--out', 'masks', '--show-dir', 'painted', '--show', '--wait-time', '1.5', '--tta']
    run(monkeypatch, 'test.py', config, checkpoint, *options)
    runner = FakeRunner.last
    assert runner.called == ['test']
    assert runner.cfg.load_from == str(checkpoint)
    assert runner.cfg.test_evaluator.output_dir == 'masks'
    assert runner.cfg.visualizer.save_dir == 'painted'
    hook = {'type': 'SegVisualizationHook', 'draw': True, 'show': True, 'wait_time': 1.5}
    assert runner.cfg.default_hooks.visualization.to_dict() == hook
    assert runner.cfg.model.type == 'SegTTAModel'
    assert runner.cfg.model.module.type == 'Net'
    assert runner.cfg.test_dataloader.dataset.pipeline == ['flipped']


@pytest.mark.parametrize(
    ('flag', 'removed', 'message'),
    [
        (['--tta'], 'tta_model', '--tta needs tta_model in the config'),
        (['--show'], 'default_hooks', 'need a visualization hook'),
        (['--wait-time', '2'], 'tta_model', '--wait-time is how long --show stays on a picture'),
    ],
)
def test_test_refuses_what_the_config_cannot_do(
    monkeypatch, capsys, config, checkpoint, flag, removed, message
):
    cfg = Config.fromfile(config)
    cfg.pop(removed)
    cfg.dump(config)
    with pytest.raises(SystemExit):
        run(monkeypatch, 'test.py', config, checkpoint, *flag)
    assert message in capsys.readouterr().err


def test_out_finds_the_iou_metric_among_several(monkeypatch, config, checkpoint):
    metrics = config.with_name('metrics.py')
    metrics.write_text(
        f"_base_ = '{config.name}'\n"
        "test_evaluator = [dict(type='Accuracy'), dict(type='mmseg.IoUMetric')]\n"
    )
    run(monkeypatch, 'test.py', metrics, checkpoint, '--out', 'masks')
    accuracy, iou = FakeRunner.last.cfg.test_evaluator
    assert 'output_dir' not in accuracy
    assert iou.output_dir == 'masks'


def test_out_lays_predictions_out_as_the_images(monkeypatch, config, checkpoint):
    settings = ['data_root=data', 'data_prefix.img_path=images']
    options = [f'test_dataloader.dataset.{setting}' for setting in settings]
    options += ['test_evaluator.type=ZeroShotIoUMetric']
    run(monkeypatch, 'test.py', config, checkpoint, '--out', 'masks', '--cfg-options', *options)
    evaluator = FakeRunner.last.cfg.test_evaluator
    assert (evaluator.output_dir, evaluator.image_root) == ('masks', 'data/images')


def test_none_leaves_the_weights_that_the_model_starts_with(monkeypatch, config):
    run(monkeypatch, 'test.py', config, 'none')
    assert FakeRunner.last.cfg.load_from is None
    assert FakeRunner.last.called == ['test']


def test_address_of_a_checkpoint_is_left_to_mmengine(monkeypatch, config):
    run(monkeypatch, 'test.py', config, 'https://example.org/last.pth')
    assert FakeRunner.last.called == ['test']


def test_flags_that_are_not_given_change_nothing(monkeypatch, config, checkpoint):
    written = config.read_text() + "resume = True\nload_from = 'last.pth'\nlauncher = 'none'\n"
    written += "default_hooks = dict(visualization=dict(type='SegVisualizationHook', wait_time=7))"
    config.write_text(written)
    monkeypatch.chdir(config.parent)
    run(monkeypatch, 'train.py', config)
    assert FakeRunner.last.cfg.resume is True
    assert FakeRunner.last.cfg.load_from == 'last.pth'
    run(monkeypatch, 'train.py', config, '--cfg-options', 'resume=False')
    assert FakeRunner.last.cfg.resume is False
    run(monkeypatch, 'test.py', config, checkpoint, '--show')
    assert FakeRunner.last.cfg.resume is False  # a test resumes nothing
    assert FakeRunner.last.cfg.default_hooks.visualization.wait_time == 7


def test_compile_takes_the_place_of_the_configs_hook(monkeypatch, config):
    with config.open('a') as file:
        file.write(
            "custom_hooks = [dict(type='CompileHook', backend='inductor'), dict(type='A')]\n"
        )
    run(monkeypatch, 'train.py', config, '--compile', 'eager')
    hooks = [hook['type'] for hook in FakeRunner.last.cfg.custom_hooks]
    assert hooks == ['A', 'mmseg.CompileHook']
    assert FakeRunner.last.cfg.custom_hooks[-1]['backend'] == 'eager'


@pytest.mark.parametrize(
    ('sections', 'message'),
    [
        ('train_cfg = None', 'the config has no train_cfg'),
        (
            "val_dataloader = dict()\nval_cfg = dict(type='ValLoop')",
            'a validation without val_evaluator; add it, or set val_dataloader=None',
        ),
    ],
)
def test_sections_that_are_needed(monkeypatch, capsys, config, sections, message):
    with config.open('a') as file:
        file.write(sections)
    with pytest.raises(SystemExit) as leaving:
        run(monkeypatch, 'train.py', config)
    assert leaving.value.code == 2
    assert message in capsys.readouterr().err


def test_sections_that_are_switched_off_are_left_out(monkeypatch, config):
    with config.open('a') as file:
        file.write('val_dataloader = None\nval_cfg = dict()\nval_evaluator = dict()\n')
        file.write('test_dataloader = None\n')
    run(monkeypatch, 'train.py', config)
    for name in ('val_cfg', 'val_evaluator', 'test_dataloader', 'test_evaluator', 'test_cfg'):
        assert name not in FakeRunner.last.cfg


def test_resuming_leaves_the_choice_of_the_checkpoint_to_the_run(monkeypatch, config, tmp_path):
    """:class:`SafeCheckpointHook` chooses between the work folder and ``load_from``."""
    torch.save(dict(state_dict={'a': torch.ones(1)}), tmp_path / 'weights.pth')
    arguments = [config, '--work-dir', tmp_path / 'run', '--resume']
    arguments += ['--cfg-options', f'load_from={tmp_path / "weights.pth"}']
    run(monkeypatch, 'train.py', *arguments)
    assert FakeRunner.last.cfg.resume is True
    assert FakeRunner.last.cfg.load_from == str(tmp_path / 'weights.pth')
