"""All thresholds from one pass over the images: the same as an evaluation at each of them."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.structures import SegDataSample

from labelled_images import SIZES, sharp_model, write_labelled_images
from pgseg_mm.cli.protocols import apply_protocol, as_protocol

TOOL = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'sweep_threshold.py'
THRESHOLDS = [0.05, 0.1, 0.15, 0.2, 0.4, 2.0]


@pytest.fixture(scope='module')
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, *size, generator=generator) for size in SIZES]


@pytest.mark.parametrize('prefix', ['', 'voc/'])
def test_thresholds_are_compared_by_the_mean_over_classes(prefix):
    best_of = runpy.run_path(str(TOOL))['best_of']
    rows = [(0.1, 90.0, 10.0), (0.2, 80.0, 50.0)]
    named = [{'threshold': t, f'{prefix}aAcc': a, f'{prefix}mIoU': m} for t, a, m in rows]
    assert best_of(named)['threshold'] == 0.2


@pytest.mark.parametrize('naming', ['affinity', 'logits', 'mixture'])
def test_class_maps_are_those_of_each_threshold_and_windows_are_encoded_once(images, naming):
    samples = [
        SegDataSample(metainfo=dict(ori_shape=(45, 60), flip=flip)) for flip in (False, True, False)
    ]
    swept = sharp_model(naming=naming)
    encoded = []
    swept.backbone.register_forward_pre_hook(lambda _, args: encoded.append(len(args[0])))
    scores = swept.segment(images, samples, THRESHOLDS)
    windows = [window for size in SIZES for window in swept.windows(size)]
    assert sum(encoded) == len(windows)
    background = []
    for i, threshold in enumerate(THRESHOLDS):
        model = sharp_model(threshold, naming)
        alone = model.predict(images, [sample.clone() for sample in samples])
        for sample, image_scores, expected in zip(samples, scores, alone, strict=True):
            swept.fill_sample(sample, [image_scores.with_background(i, len(THRESHOLDS))])
            assert torch.equal(sample.pred_sem_seg.data, expected.pred_sem_seg.data)
        background.append(sum((sample.pred_sem_seg.data == 0).sum().item() for sample in samples))
    assert background == sorted(background)
    least = 3 if naming == 'affinity' else 2  # softmaxes are higher than their product
    assert len(set(background)) > least  # the thresholds do matter


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Path:
    """A config with a test and a validation set of three images each, and its checkpoint."""
    return write_labelled_images(tmp_path_factory.mktemp('sweep'))


@pytest.fixture(scope='module')
def checkpoint(config) -> Path:
    return config.with_name('weights.pth')


def sweep(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, arguments)])
    runpy.run_path(str(TOOL), run_name='__main__')


def evaluate(config, checkpoint, split, threshold, rule=None) -> dict:
    """Metrics at a threshold: the head's, or one of a rule that decides by scores of words."""
    cfg = Config.fromfile(config) if rule is None else protocolled(config, PROTOCOL)
    cfg.experiment_name = f'{split}_{threshold}_{rule}'
    if rule is None:
        cfg.model.decode_head.background_threshold = threshold
    else:
        cfg.model.decode_head.pop('background_threshold')
        cfg.model.test_cfg.decision = dict(logit_scale=40, **{rule: threshold})
    cfg.test_dataloader, cfg.load_from = cfg[f'{split}_dataloader'], str(checkpoint)
    return Runner.from_cfg(cfg).test()


@pytest.mark.parametrize('split', ['test', 'val'])
def test_figures_are_those_of_an_evaluation_at_each_threshold(
    config, checkpoint, split, monkeypatch, capsys, tmp_path
):
    outputs = ['--json', tmp_path / 'a.json', '--markdown', tmp_path / 'a.md']
    sweep(monkeypatch, config, checkpoint, '--split', split, '--thresholds', *THRESHOLDS, *outputs)
    said = capsys.readouterr().out
    found = json.loads((tmp_path / 'a.json').read_text())
    assert [row['threshold'] for row in found['thresholds']] == THRESHOLDS
    for row in found['thresholds']:
        expected = evaluate(config, checkpoint, split, row['threshold'])
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=0)
    scores = [row['mIoU'] for row in found['thresholds']]
    assert len(set(scores)) >= 3
    assert found['best'] == found['thresholds'][scores.index(max(scores))]
    best = f'background_threshold={found["best"]["threshold"]:g}, mIoU {max(scores):.2f}'
    table = (tmp_path / 'a.md').read_text()
    assert best in table and table in said
    assert f'The labels of BaseSegDataset ({split}, 3 images) were used' in said
    assert 'not zero-shot' in said


def test_a_naming_rule_is_swept_as_it_is_evaluated(config, checkpoint, monkeypatch, tmp_path):
    found = {}
    for rule in ('affinity', 'logits'):
        outputs = ['--json', tmp_path / f'{rule}.json', '--naming', rule]
        sweep(monkeypatch, config, checkpoint, '--thresholds', *THRESHOLDS, *outputs)
        rows = json.loads((tmp_path / f'{rule}.json').read_text())['thresholds']
        found[rule] = [row['mIoU'] for row in rows]
    assert found['affinity'] != found['logits']
    by_logits = config.with_name('logits.py')
    cfg = Config.fromfile(config)
    cfg.model.decode_head.naming = 'logits'
    cfg.dump(by_logits)
    expected = [evaluate(by_logits, checkpoint, 'test', t)['mIoU'] for t in THRESHOLDS]
    assert found['logits'] == pytest.approx(expected, abs=0)


PROTOCOL = dict(
    name='own',
    short_side=32,
    long_side=64,
    window=16,
    stride=16,
    logit_scale=40.0,
    templates='simple',
)


def protocolled(config, settings) -> Config:
    """The config as a protocol of one's own says."""
    cfg = Config.fromfile(config)
    apply_protocol(cfg, as_protocol(protocol_of(settings)).settings('voc21'))
    return cfg


def protocol_of(settings, **own) -> dict:
    return dict(settings, benchmarks=dict(voc21=own))


@pytest.fixture
def benchmark(config) -> Path:
    """The same data as a benchmark, whose images are resized."""
    path = config.with_name('benchmark.py')
    cfg = Config.fromfile(config)
    cfg.benchmark = dict(name='voc21')
    for loader in (cfg.test_dataloader, cfg.val_dataloader):
        resize = dict(type='Resize', scale=(2048, 448), keep_ratio=True)
        loader.dataset.pipeline.insert(1, resize)
    cfg.dump(path)
    return path


@pytest.mark.parametrize(
    ('rule', 'thresholds'),
    [('prob_threshold', [0.1, 0.25, 0.3, 0.5]), ('background_score', [0.05, 0.1, 0.15, 1.5])],
)
def test_a_protocol_has_its_own_kind_of_threshold(
    benchmark, checkpoint, rule, thresholds, monkeypatch, tmp_path
):
    path = tmp_path / 'own.py'
    Config(dict(protocol=protocol_of(PROTOCOL, **{rule: 0.2}))).dump(path)
    arguments = ['--protocol', path, '--json', tmp_path / 'a.json', '--markdown', tmp_path / 'a.md']
    sweep(monkeypatch, benchmark, checkpoint, '--thresholds', *thresholds, *arguments)
    found = json.loads((tmp_path / 'a.json').read_text())
    assert found['setting'] == rule and found['protocol']['window'] == 16
    for row in found['thresholds']:
        expected = evaluate(benchmark, checkpoint, 'test', row['threshold'], rule)
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=0)
    assert len({row['mIoU'] for row in found['thresholds']}) >= 3
    assert f'Best: {rule}=' in (tmp_path / 'a.md').read_text()


def test_thresholds_are_compared_by_the_metric_that_there_is(
    config, checkpoint, monkeypatch, capsys
):
    options = ['--cfg-options', "test_evaluator.iou_metrics=['mDice']"]
    sweep(monkeypatch, config, checkpoint, '--thresholds', '0.1', '0.4', *options)
    assert re.search(r'Best: background_threshold=0.[14], mDice [\d.]+', capsys.readouterr().out)


def test_a_protocol_is_for_the_test_set(benchmark, checkpoint, monkeypatch, capsys, tmp_path):
    path = tmp_path / 'own.py'
    Config(dict(protocol=protocol_of(PROTOCOL, prob_threshold=0.2))).dump(path)
    for arguments, message in (
        (['--split', 'val'], 'a protocol is applied to the test set, but --split is val'),
        (['--thresholds', '0.5', '1.5'], 'prob_threshold is at most 1, got 1.5'),
    ):
        with pytest.raises(SystemExit):
            sweep(monkeypatch, benchmark, checkpoint, '--protocol', path, *arguments)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--thresholds', '0', '0.5'], 'thresholds must be positive, got 0.0'),
        (['--cfg-options', 'model.decode_head.background_threshold=None'], 'no background'),
        (['--split', 'val', '--cfg-options', 'val_dataloader=None'], 'no val_dataloader'),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_loaded(
    config, checkpoint, arguments, message, monkeypatch, capsys
):
    with pytest.raises(SystemExit):
        sweep(monkeypatch, config, checkpoint, *arguments)
    assert message in capsys.readouterr().err


def test_images_without_labels_and_models_without_weights_are_refused(
    config, checkpoint, monkeypatch, capsys
):
    labels = ['--cfg-options', 'test_dataloader.dataset.data_prefix.seg_map_path=nowhere']
    with pytest.raises(SystemExit) as leaving:
        sweep(monkeypatch, config, checkpoint, '--thresholds', '0.1', '0.4', *labels)
    assert 'no image of the data set has a label map' in str(leaving.value.code)
    with pytest.raises(SystemExit):  # a PGSeg's encoders start with none
        sweep(monkeypatch, config, 'none', '--thresholds', '0.1', '0.4')
    assert 'none' in capsys.readouterr().err
