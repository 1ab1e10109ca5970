"""919 classes on 12 megapixels stay far below the 44 GB of their dense scores."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model_zoo import lively_model, tiny_model_cfg
from prepared_processes import run_python

ROOT = Path(__file__).parents[2]
LIMIT_GB = 4
# not ru_maxrss, which a process inherits from the one that started it
PEAK = 'print(*[line for line in open("/proc/self/status") if line.startswith("VmHWM")])'
INFERENCER = """
import numpy as np
from mmengine.config import Config
from PIL import Image
from pgseg_mm.apis import PGSegInferencer

inferencer = PGSegInferencer(Config.fromfile('large.py'), 'large.pth', device='cpu')
(result,) = inferencer(
    'images/large.jpg', vocabulary='words.txt', scores='classes', groups=True, out_dir='out'
)
assert result.mask.shape == (3000, 4000) and result.scores.shape == (919,)
assert len(result.areas) > 1
"""
EVALUATION = f"""
import runpy, sys
sys.argv = ['test.py', 'large.py', 'large.pth', '--out', 'out']
runpy.run_path({str(ROOT / 'tools' / 'test.py')!r}, run_name='__main__')
"""
CONFIG = """
default_scope = 'mmseg'
custom_imports = dict(imports=['pgseg_mm'])
model = {model!r}
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 448), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset', pipeline=test_pipeline,
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=[f'thing {{i}}' for i in range(919)]),
    ),
)
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_cfg = dict(type='TestLoop')
custom_hooks = [dict(type='VocabularyHook')]
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('large')
    cfg = tiny_model_cfg(test_cfg=dict(mode='slide', crop_size=(448, 448), stride=(224, 224)))
    cfg['backbone'].update(img_size=224, patch_size=16)
    (folder / 'large.py').write_text(CONFIG.format(model=cfg))
    model = lively_model(backbone=cfg['backbone'], test_cfg=cfg['test_cfg'])
    torch.save(dict(state_dict=model.state_dict()), folder / 'large.pth')
    (folder / 'words.txt').write_text('\n'.join(f'thing {i}' for i in range(919)))
    for name in ('images', 'labels'):
        (folder / name).mkdir()
    coarse = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((4000, 3000)).save(folder / 'images' / 'large.jpg')
    labels = Image.fromarray(np.zeros((3000, 4000), np.uint8))
    labels.save(folder / 'labels' / 'large.png', compress_level=1)
    return folder


def peak_gb(code: str, folder: Path) -> float:
    """Peak of the memory of a process that runs the code."""
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = run_python(['-c', f'{code}\n{PEAK}'], cwd=folder, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.split()[-2]) * 1024 / 1e9


@pytest.mark.skipif(sys.platform != 'linux', reason='the peak is read from /proc')
@pytest.mark.parametrize('code', [INFERENCER, EVALUATION], ids=['inferencer', 'tools/test.py'])
def test_peak_of_the_process(folder, code):
    assert peak_gb(code, folder) < LIMIT_GB
