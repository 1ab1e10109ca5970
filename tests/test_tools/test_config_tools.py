"""Tools that look at a config: its text, its costs, its data."""

import json
import math
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmseg.registry import MODELS
from PIL import Image

from prepared_processes import run_python
from shard_zoo import write_shards

ROOT = Path(__file__).parents[2]
TINY = ROOT / 'configs/pgseg/pgseg_tiny-p8_emoji-scenes-64x64.py'
SHARDS = ROOT / 'configs/pgseg/pgseg_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py'
MISC, ANALYSIS = ROOT / 'tools' / 'misc', ROOT / 'tools' / 'analysis_tools'


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a tool in this process, and gives what it prints."""

    def run_tool(tool: Path, *arguments: object) -> str:
        monkeypatch.setattr(sys, 'argv', [tool.name, *map(str, arguments)])
        runpy.run_path(str(tool), run_name='__main__')
        return capsys.readouterr().out

    return run_tool


def run_alone(tool: Path, *arguments: object) -> str:
    done = run_python([tool, *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_print_config_shows_what_is_inherited_and_set(tmp_path):
    command = [sys.executable, MISC / 'print_config.py', TINY, '--graph']
    command += ['--cfg-options', 'train_cfg.max_iters=7']
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    text, _, graph = shown.partition('\nPGSeg(')
    text = text[re.search(r'^\w+ = ', text, re.MULTILINE).start() :]  # libraries print, too
    (tmp_path / 'shown.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'shown.py')
    assert cfg.train_cfg.max_iters == 7
    assert cfg.model == Config.fromfile(TINY).model
    assert '(backbone): PGSegViT(' in graph


def count_by_mmengine(module: torch.nn.Module, example: torch.Tensor) -> float:
    """mmengine counts normalisations, too, but no fused attention."""

    def attention(inputs: list, outputs: list) -> int:
        query, key, value = (x.type().sizes() for x in inputs[:3])
        return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])

    analyzer = FlopAnalyzer(module, (example,)).unsupported_ops_warnings(False)
    analyzer.set_op_handle(**{'aten::scaled_dot_product_attention': attention})
    return analyzer.tracer_warnings('none').total()


def test_get_flops_agrees_with_mmengine_and_by_hand(run):
    shown = run_alone(ANALYSIS / 'get_flops.py', TINY, '--shape', '64', '128')
    rows = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert 'image 64 x 128' in rows['backbone'] and '40 tokens' in rows['text_encoder']
    model = MODELS.build(Config.fromfile(TINY).model).eval()
    parameters = sum(p.numel() for p in model.parameters())
    assert f'{parameters / 1e6:.3f} M' in rows['all']

    tool = runpy.run_path(str(ANALYSIS / 'get_flops.py'))
    layer = torch.nn.Linear(96, 384)
    assert tool['count'](layer, torch.rand(10, 96)) == 10 * 96 * 384
    attention = model.text_encoder.blocks[0].attn
    tokens, width = 40, 64
    by_hand = tokens * width * 4 * width + 2 * tokens * tokens * width  # q, k, v, out; QK', AV
    assert tool['count'](attention, torch.rand(1, tokens, width)) == by_hand
    image = torch.rand(1, 3, 64, 128)
    ours = tool['count'](model.backbone, image)
    assert ours == pytest.approx(count_by_mmengine(model.backbone, image), rel=0.02)
    assert f'{ours / 1e9:.3f} G' in rows['backbone']


@pytest.fixture
def pairs(tmp_path) -> Path:
    images = tmp_path / 'images'
    images.mkdir()
    rows = []
    for number in range(3):
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[..., number] = 255  # red, green, blue
        Image.fromarray(pixels).save(images / f'{number}.png')
        rows.append({'image': f'images/{number}.png', 'caption': 'a word ' * (1 + 30 * number)})
    lines = [json.dumps(row) for row in rows]
    (tmp_path / 'captions_train.jsonl').write_text('\n'.join(lines))
    return tmp_path


def test_browse_pairs_of_a_file(pairs, tmp_path):
    out = tmp_path / 'seen'
    option = f'train_dataloader.dataset.dataset.data_root={pairs}/'
    run_alone(
        ANALYSIS / 'browse_dataset.py', TINY, '--not-show', '--output-dir', out, '--cfg-options',
        option,
    )  # fmt: skip
    sheets = [np.asarray(Image.open(path)) for path in sorted(out.iterdir())]
    assert [path.name for path in sorted(out.iterdir())] == [f'00000{i}_{i}.png' for i in range(3)]
    for number, sheet in enumerate(sheets):
        assert sheet[0, 0].tolist() == [255 * (channel == number) for channel in range(3)]
        assert sheet.shape[1] >= 448 and (sheet[-1] == 255).all()
        assert (sheet[448:] < 128).any()  # the caption
    assert sheets[2].shape[0] > sheets[0].shape[0]  # a longer caption takes more lines


def test_browse_shards_of_a_config_with_augmentation(run, tmp_path):
    pattern = write_shards(tmp_path / 'shards', shards=2, samples=4)
    config = tmp_path / 'shards.py'
    config.write_text(
        f"""
_base_ = {str(SHARDS)!r}
train_dataloader = dict(dataset=dict(sources=[dict(name='a', shards={pattern!r}, samples=8)]))
"""
    )
    out = tmp_path / 'seen'
    run(ANALYSIS / 'browse_dataset.py', config, '--not-show', '--output-dir', out, '--number', 3)
    assert len(list(out.iterdir())) == 3


def test_browse_label_maps(run, tmp_path):
    for folder in ('images/val', 'annotations/val'):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(tmp_path / 'images/val/0.png')
    labels = np.zeros((40, 40), np.uint8)
    labels[:, 20:] = 1
    Image.fromarray(labels).save(tmp_path / 'annotations/val/0.png')
    (tmp_path / 'classes.txt').write_text('sky\ngrass\n')
    root = f'{tmp_path}/'
    options = [f'val_dataloader.dataset.data_root={root}']
    options += [f'val_dataloader.dataset.metainfo.classes={root}classes.txt']
    run(
        ANALYSIS / 'browse_dataset.py', TINY, '--split', 'val', '--not-show', '--output-dir',
        tmp_path / 'seen', '--cfg-options', *options,
    )  # fmt: skip
    (path,) = (tmp_path / 'seen').iterdir()
    painted = np.asarray(Image.open(path)).astype(int)
    left, right = painted[200, 500], painted[200, 900]  # of the panel behind the image
    assert np.abs(left - right).max() > 20  # two labels, two colours


def test_tools_say_what_is_missing(run, capsys, tmp_path):
    with pytest.raises(SystemExit):
        run(ANALYSIS / 'browse_dataset.py', TINY, '--not-show')
    assert 'leaves nothing to do' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='error: .*00000.tar'):
        run(ANALYSIS / 'browse_dataset.py', SHARDS, '--not-show', '--output-dir', tmp_path)
    with pytest.raises(SystemExit):
        run(ANALYSIS / 'get_flops.py', TINY, '--shape', '1', '2', '3')
    assert '--shape takes one or two positive numbers' in capsys.readouterr().err
    for words in ([ANALYSIS / 'get_flops.py'], [MISC / 'print_config.py', '--graph']):
        with pytest.raises(SystemExit):
            run(*words, ROOT / 'configs/_base_/default_runtime.py')
        assert 'the config has no model' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(MISC / 'print_config.py', '--graph', TINY, '--cfg-options', 'model.type=Absent')
    assert 'the model cannot be built' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='the data set cannot be built: .*Absent'):
        given = ['--cfg-options', 'train_dataloader.dataset.type=Absent']
        run(ANALYSIS / 'browse_dataset.py', TINY, '--not-show', '--output-dir', tmp_path, *given)
    with pytest.raises(SystemExit):
        run(MISC / 'print_config.py', 'absent.py')
    assert 'config file not found: absent.py' in capsys.readouterr().err
