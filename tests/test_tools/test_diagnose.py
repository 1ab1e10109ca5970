"""Losses told apart on the command line: its figures are those of an evaluation."""

import csv
import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from labelled_images import CLASSES, write_labelled_images
from tool_runs import refusal, run_tool

TOOL = 'tools/analysis_tools/diagnose.py'


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Path:
    return write_labelled_images(tmp_path_factory.mktemp('diagnose'))


@pytest.fixture(scope='module')
def found(config, tmp_path_factory) -> Path:
    """Folder of the results on the validation set."""
    out = tmp_path_factory.mktemp('out')
    with pytest.MonkeyPatch.context() as patch:
        diagnose(patch, config, '--split', 'val', '--out', out, '--naming', 'logits')
    return out


def diagnose(monkeypatch, config: Path, *arguments: object) -> None:
    run_tool(monkeypatch, TOOL, config, config.with_name('weights.pth'), *arguments)


def evaluate(config: Path, naming: str) -> float:
    cfg = Config.fromfile(config)
    cfg.experiment_name = f'plain_{naming}'
    cfg.model.decode_head.naming = naming
    cfg.test_dataloader, cfg.load_from = cfg.val_dataloader, str(config.with_name('weights.pth'))
    return Runner.from_cfg(cfg).test()


@pytest.mark.parametrize('naming', ['affinity', 'logits', 'mixture'])
def test_free_is_what_an_evaluation_reaches(config, found, naming):
    ways = json.loads((found / 'diagnosis.json').read_text())['ways']
    expected = evaluate(config, naming)
    assert round(ways[naming]['mIoU'], 2) == expected['mIoU'] > 0
    assert round(ways[naming]['aAcc'], 2) == expected['aAcc']


def test_all_files_have_the_same_figures(found):
    content = json.loads((found / 'diagnosis.json').read_text())
    ways = content['ways']
    assert list(ways) == ['oracle', 'present', 'affinity', 'logits', 'mixture']
    assert content['losses']['recognition'] == ways['present']['mIoU'] - ways['logits']['mIoU']
    assert content['data'] == 'BaseSegDataset (val, 3 images)' and content['images'] == 3
    assert 0 < content['used_groups'] <= content['groups'] == 3
    rows = list(csv.DictReader((found / 'diagnosis.csv').open()))
    assert [row['class'] for row in rows] == CLASSES
    table = (found / 'diagnosis.md').read_text()
    assert f'| **free, by logits** | {ways["logits"]["mIoU"]:.2f} |' in table
    for row in rows:
        for way, figures in ways.items():
            assert float(row[way]) == figures['class_iou'][row['class']]
        assert f'| {row["class"]} | {row["pixels"]} | {float(row["oracle"]):.1f} |' in table
    first = ways['logits']['confusions'][0]
    share = f'{100 * first["share"]:.1f}'
    assert f'| {first["label"]} | {first["prediction"]} | {share} |' in table
    with Image.open(found / 'diagnosis.png') as image:
        assert image.format == 'PNG'


def test_some_images_do_and_the_work_directory_gets_files(config, monkeypatch, capsys, tmp_path):
    work = tmp_path / 'work'
    diagnose(monkeypatch, config, '--max-images', 2, '--work-dir', work)
    content = json.loads((work / 'diagnosis.json').read_text())
    assert content['images'] == 2 and content['naming'] == 'affinity'
    said = capsys.readouterr().out
    assert f'{content["ways"]["oracle"]["mIoU"]:.2f}' in said and f'Written to {work}' in said


HEAD = 'model.decode_head'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--max-images', 0], 'expected a whole number of at least 1'),
        (['--naming', 'guess'], "invalid choice: 'guess'"),
        (['--split', 'val', '--cfg-options', 'val_dataloader=None'], 'no val_dataloader'),
        (
            [
                '--cfg-options',
                f'{HEAD}._delete_=True',
                f'{HEAD}.type=DenseCLIPHead',
                f'{HEAD}.in_channels=64',
            ],
            'DenseCLIPHead scores patches and names no groups',
        ),
    ],
)
def test_what_cannot_be_diagnosed_is_refused(
    config, arguments, message, monkeypatch, capsys, tmp_path
):
    given = [config, config.with_name('weights.pth'), *arguments, '--work-dir', tmp_path]
    assert message in refusal(monkeypatch, capsys, TOOL, *given)


def test_an_out_that_is_a_file_is_refused(config, monkeypatch, capsys, tmp_path):
    taken = tmp_path / 'taken'
    taken.write_text('')
    given = [config, config.with_name('weights.pth'), '--out', taken, '--work-dir', tmp_path]
    assert f'--out {taken}' in refusal(monkeypatch, capsys, TOOL, *given)
