"""What the README shows is run, at small size."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from pgseg_mm.models import PGSegViT
from tiny_open_clip import add_tiny_models

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')

SMALL = {
    'emoji_scenes.py': ['--num-train', '160', '--num-val', '4'],
    'train.py': [],
    'dist_train.sh': [],
    'test.py': [],
    'dist_test.sh': [],
    'image_demo.py': [],
}
TRAINING = ['train_cfg.max_iters=1', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=16']
NUM_WORKERS = [
    f'{split}_dataloader.{key}'
    for split in ('train', 'val', 'test')
    for key in ('num_workers=0', 'persistent_workers=False')
]


def blocks(language: str) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line.partition('#')[0] for block in blocks('bash') for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.strip()]


def small(command: list[str]) -> list[str]:
    """The command with this interpreter, and little to do."""
    tool = Path(command[1]).name
    command = [sys.executable if word == 'python' else word for word in command] + SMALL[tool]
    command = [word.replace('iter_1000', 'iter_1') for word in command]
    if tool == 'emoji_scenes.py':
        return command
    return [*command, '--cfg-options', *(TRAINING if 'train' in tool else []), *NUM_WORKERS]


def test_commands(tmp_path):
    """Those that take no environment of their own, one after another in one folder."""
    for name in ('configs', 'demo', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    env = {**os.environ, 'PYTHON': sys.executable, 'PORT': str(28500 + os.getpid() % 1000)}
    ran = []
    for command in commands():
        if command[0] in ('make', 'pip') or command[1].endswith('run_demo.py'):
            continue  # CI makes the environment and runs the targets; the demo has its own tests
        if command[0] == 'mim' or command[1] == '-m':
            continue  # tests/test_packaging/test_wheel.py runs them from the wheel
        done = subprocess.run(
            small(command), cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f'{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}'
        ran.append(Path(command[1]).name)
        if 'test' in ran[-1]:
            assert 'mIoU_objects' in done.stdout
    assert set(ran) == set(SMALL)
    assert (tmp_path / 'work_dirs' / 'tiny' / 'iter_1.pth').is_file()
    assert len(list((tmp_path / 'outputs' / 'vis').iterdir())) == 4


def test_make_targets_and_extras_exist():
    targets = {command[1] for command in commands() if command[0] == 'make'}
    assert targets and all(
        re.search(rf'^{t}:', (ROOT / 'Makefile').read_text(), re.M) for t in targets
    )
    extras = {re.search(r'\[(\w+)\]', c[-1]).group(1) for c in commands() if c[0] == 'pip'}
    assert extras == {'onedl', 'openmmlab'}
    assert all((ROOT / 'requirements' / f'{extra}.txt').is_file() for extra in extras)


def mixed_in(block: str, scope: str) -> Config:
    """The config of a snippet in a project of the library that has the scope."""
    head = f"custom_imports = dict(imports=['pgseg_mm'])\ndefault_scope = '{scope}'\n"
    return Config.fromstring(head + block, '.py')


@pytest.mark.parametrize('number', [0, 1])
def test_mixed_in_models(number, tmp_path, monkeypatch):
    block = [b for b in blocks('python') if 'EncoderDecoder' in b][number]
    monkeypatch.chdir(tmp_path)
    np.save('class_embeds.npy', np.random.default_rng(0).normal(size=(5, 256)))
    model = MODELS.build(mixed_in(block, 'mmseg').model).eval()
    with torch.no_grad():
        out = model.predict(torch.rand(1, 3, 64, 96))
    assert out[0].pred_sem_seg.data.shape == (1, 64, 96)
    labels = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(5, (1, 64, 96))))
    losses = model.train().loss(torch.rand(2, 3, 64, 96), [labels, labels])
    losses['decode.loss_ce'].backward()
    assert model.backbone.patch_embed.weight.grad.abs().sum() > 0


def test_head_on_another_encoder(tmp_path):
    add_tiny_models(tmp_path)
    cfg = mixed_in(next(b for b in blocks('python') if 'OpenCLIPGroupViT' in b), 'mmseg').model
    for part in (cfg.backbone, cfg.text_encoder):
        assert part.pretrained == 'openai'
        part.update(model_name='tiny-clip-quickgelu', pretrained=None)
    cfg.decode_head.update(in_channels=24, channels=24, text_channels=24)
    cfg.test_cfg.update(crop_size=(32, 32), stride=(16, 16), seg_logits=True)
    model = MODELS.build(cfg).eval()
    model.set_vocabulary(['dog', 'red car', 'grass'])
    with torch.no_grad():
        out = model.predict(torch.rand(1, 3, 32, 64))
    assert out[0].seg_logits.data.shape == (3, 32, 64)
    assert out[0].pred_sem_seg.data.shape == (1, 32, 64)
    assert out[0].seg_logits.data.std() > 0


def test_npr_loss_of_queries():
    block = next(b for b in blocks('python') if 'loss_npr = dict(' in b)
    loss_npr = MODELS.build(mixed_in(block, 'mmseg').loss_npr)
    queries = torch.randn(2, 19, 384, requires_grad=True)
    loss = loss_npr(torch.randn(2, 50, 384), queries)
    loss.backward()
    assert loss > 0 and queries.grad.abs().sum() > 0


def test_backbone_in_the_scope_of_mmpretrain():
    from mmpretrain.structures import DataSample

    cfg = mixed_in(next(b for b in blocks('python') if 'ImageClassifier' in b), 'mmpretrain')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = ROOT_MODELS.build(cfg.model).train()
    assert isinstance(model.backbone, PGSegViT)
    labels = [DataSample().set_gt_label(label) for label in (3, 5)]
    model.loss(torch.rand(2, 3, 64, 96), labels)['loss'].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {'head.fc.weight', 'head.fc.bias'}


@pytest.mark.parametrize('function', ['init_model', 'PGSegInferencer'])
def test_inference_snippets(tmp_path, monkeypatch, function):
    block = next(b for b in blocks('python') if function in b)
    for name in ('configs', 'data'):
        (tmp_path / name).symlink_to(ROOT / name, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(ROOT / 'configs/pgseg/pgseg_tiny-p8_emoji-scenes-64x64.py')
    meta = {'dataset_meta': {'classes': ['dog'], 'palette': [[0, 0, 0]]}}
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': meta}, 'iter_1000.pth')
    from PIL import Image

    Image.fromarray(np.zeros((40, 56, 3), np.uint8)).save('image.png')
    names: dict = {}
    exec(block, names)
    result = names['result']
    if function == 'init_model':
        assert result.pred_sem_seg.data.shape == (1, 40, 56)
    else:
        assert result.mask.shape == (40, 56)
        assert result.classes == ('background', 'dog', 'red apple', 'grass')
