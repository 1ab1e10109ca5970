"""Commands of the pages on evaluation are run, on a miniature of Pascal VOC."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from benchmark_zoo import BENCHMARKS, SMALL, small_checkpoint
from pages import ROOT, blocks, commands, read_page, section
from prepared_processes import run_python
from tool_runs import run_tool

ZERO_SHOT = read_page('docs/zero_shot.md')
VOCABULARIES = read_page('docs/vocabularies.md')
DIAGNOSIS = read_page('docs/diagnosis.md')
(VOC21,) = (benchmark for benchmark in BENCHMARKS if benchmark.name == 'voc21')


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with data, a small model's weights, configs and tools."""
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    VOC21.write(tmp_path / 'datasets')
    names = tmp_path / 'datasets' / VOC21.split
    names.with_name('train.txt').write_text(names.read_text())
    small_checkpoint(tmp_path / 'pgseg-gcc.pth')
    monkeypatch.setenv('PGSEG_DATA_ROOT', str(tmp_path / 'datasets'))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(words: list[str]) -> list[str]:
    """A command with the small model in place of the published one."""
    own = words.index('--cfg-options') if '--cfg-options' in words else len(words)
    return [*words[:own], '--cfg-options', *words[own + 1 :], *SMALL]


def test_a_benchmark_is_evaluated(place, monkeypatch, capsys):
    shown = commands(ZERO_SHOT, 'tools/test.py')
    assert [words[-2:] for words in shown[1:]] == [['--protocol', 'tcl']]
    for number, (_, tool, *arguments) in enumerate(shown):
        name = f'experiment_name=run_{number}'  # mmengine's holds for a second
        run_tool(monkeypatch, tool, *small(arguments), name)
        assert 'mIoU' in capsys.readouterr().out


def test_a_benchmark_is_evaluated_in_several_processes(place):
    (words,) = commands(ZERO_SHOT, 'tools/dist_test.sh')
    assert words[-1] == '4'
    port = str(29500 + os.getpid() % 1000)
    env = {**os.environ, 'PYTHON': sys.executable, 'PORT': port}
    command = small([*words[:-1], '2'])
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'mIoU' in done.stdout


def test_the_table_says_what_is_missing(place, monkeypatch):
    ((_, tool, *arguments),) = commands(ZERO_SHOT, 'zero_shot_table.py')
    with pytest.raises(SystemExit) as leaving:
        run_tool(monkeypatch, tool, *small([*arguments, '--work-dir', 'table']))
    assert leaving.value.code == 0
    rows = json.loads(Path('table/zero_shot.json').read_text())['benchmarks']
    states = {row['name']: row['state'] for row in rows}
    assert len(states) == 12 and states['lvis'] == 'missing'
    assert {name for name, state in states.items() if state == 'measured'} == {'voc21', 'voc20'}


def test_the_table_is_made_by_a_process_of_its_own(place):
    ((_, tool, *arguments),) = commands(ZERO_SHOT, 'zero_shot_table.py')
    work_dir = ['--work-dir', 'table', '--benchmarks', 'voc21']
    for _ in range(2):  # the second finds what the first has measured
        done = run_python([tool, *small([*arguments, *work_dir])], cwd=place)
        assert done.returncode == 0, done.stderr[-3000:]
    assert 'voc21: evaluated before, with the same weights and settings' in done.stdout


def test_label_maps_of_ones_own_are_evaluated(place, monkeypatch, capsys):
    part = section(ZERO_SHOT, 'Your own label maps')
    (block,) = blocks(part, 'python')
    folder = place / 'data' / 'mine'
    classes = ['background', 'dog', 'red car']
    for kind, suffix, high, shape in (
        ('images', '.jpg', 256, (40, 56, 3)),
        ('labels', '.png', 3, (40, 56)),
    ):
        (folder / kind / 'val').mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, high, shape, np.uint8)
        Image.fromarray(pixels).save(folder / kind / 'val' / f'a{suffix}')
    (folder / 'classes.txt').write_text('\n'.join(classes))
    (folder / 'words.txt').write_text('background\ndog, puppy\nred car\n')
    Path('mine.py').write_text(block)
    (words,) = re.findall(r'`python (tools/test.py) (mine.py) (\S+)`', part)
    tool, *arguments = words
    run_tool(monkeypatch, tool, *small(arguments), 'experiment_name=own')
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*classes, 'mIoU'))
    without = ['model.decode_head.background_threshold=None', 'experiment_name=word']
    run_tool(monkeypatch, tool, *small(arguments), *without)
    assert 'class 0 is called background, and is looked for by that word' in capsys.readouterr().out
    assert '`vocabulary=None`' in part and '`background_threshold=None`' in part
    Path('mine.py').write_text(
        block.replace("'data/mine/words.txt'", 'None').replace('0.9', 'None')
    )
    (folder / 'classes.txt').write_text('\n'.join(['cat', *classes[1:]]))
    run_tool(monkeypatch, tool, *small(arguments), 'experiment_name=none')
    assert re.search(r'\| +cat +\|', capsys.readouterr().out)
    assert Config.fromfile('mine.py').benchmark is None


def test_thresholds_are_searched(place, monkeypatch, capsys):
    shown = commands(VOCABULARIES, 'sweep_threshold.py')
    assert len(shown) == 2
    for _, tool, *arguments in shown:
        fill_in = {'CONFIG': str(VOC21.config), 'CHECKPOINT': 'pgseg-gcc.pth'}
        words = [fill_in.get(word, word) for word in arguments]
        run_tool(monkeypatch, tool, *small(words))
    assert 'zero-shot' in capsys.readouterr().out
    assert len(json.loads(Path('sweep.json').read_text())['thresholds']) == 4
    assert Path('sweep.md').is_file()


def test_losses_are_told_apart(place, monkeypatch, capsys):
    ((_, tool, *arguments),) = commands(DIAGNOSIS, 'diagnose.py')
    fill_in = {'CONFIG': str(VOC21.config), 'CHECKPOINT': 'pgseg-gcc.pth'}
    run_tool(monkeypatch, tool, *small([fill_in.get(word, word) for word in arguments]))
    assert 'recognition (present' in capsys.readouterr().out
    assert {file.suffix for file in Path('diagnosis').glob('diagnosis.*')} == {
        suffix for suffix in ('.md', '.json', '.csv', '.png') if f'diagnosis{suffix}`' in DIAGNOSIS
    }


def test_losses_are_told_apart_in_python(place, capsys):
    (block,) = blocks(DIAGNOSIS, 'python')
    cfg = Config.fromfile(VOC21.config)
    small = dict(option.split('=') for option in SMALL)
    cfg.merge_from_dict({name: ast.literal_eval(value) for name, value in small.items()})
    cfg.dump('mine.py')
    block = block.replace("'CONFIG'", "'mine.py'").replace("'CHECKPOINT'", "'pgseg-gcc.pth'")
    exec(block, {'__name__': 'mine'})
    (told,) = re.findall(r'^[\d.]+ [\d.]+ [\d.]+ \{', capsys.readouterr().out, re.MULTILINE)
    oracle, present, free = (float(word) for word in told.split()[:3])
    assert oracle >= free and 0 < present <= 100


def test_another_model_takes_a_benchmark_and_its_threshold(place):
    (block,) = (text for text in blocks(ZERO_SHOT, 'python') if 'my_model.py' in text)
    (threshold,) = re.findall(r'`(model = dict\(decode_head=.*?voc21\)\))`', ZERO_SHOT)
    real = block.replace('my_model', 'pgseg_vit-small-p16').replace("'../", f"'{ROOT}/configs/")
    Path('mine.py').write_text(real.replace('ade20k', 'voc21') + threshold)
    cfg = Config.fromfile('mine.py')
    assert cfg.benchmark.name == 'voc21' and cfg.model.type == 'PGSeg'
    assert cfg.model.decode_head.background_threshold == cfg.background_thresholds.voc21
