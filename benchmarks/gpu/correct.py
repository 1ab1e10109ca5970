"""Whether training and prediction are right on this device."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from mmengine.registry import init_default_scope

from .precision import fp16_overflow, half_precision, same_as_on_the_cpu
from .runs import distributed, killed_and_resumed
from .stage import ROOT, Piece, Stage
from .waits import waits

PARITY = ('pgseg_tiny.npz', 'pgseg_vits16.npz')


def gpu_tests(stage: Stage) -> Piece:
    """All tests that are marked for GPUs."""
    mark = 'pytest.mark.gpu'
    here = Path(__file__).resolve()
    files = [
        path
        for path in sorted((ROOT / 'tests').rglob('test_*.py'))
        if mark in path.read_text(encoding='utf-8') and path != here
    ]
    if not files:
        raise RuntimeError(f'no test has the mark {mark}')
    options = ('-q', '-m', 'gpu', '-p', 'no:cacheprovider')
    wide = {'COLUMNS': '500'}  # or failures lose their reasons
    done = stage.command('-m', 'pytest', *options, *files, env=wide, check=False)
    last = (done.stdout.strip().splitlines() or [''])[-1]
    counts = {word: int(number) for number, word in re.findall(r'(\d+) (\w+)', last)}
    failed = done.returncode != 0
    if failed:
        failures = re.findall(r'^(?:FAILED|ERROR) .*', done.stdout, re.MULTILINE)
        last = '; '.join([last, *failures]) or done.stderr[-300:]
    if stage.device == 'cpu' and not failed:
        return Piece(f'{last}: they need a GPU', passed=None)
    return Piece(last, passed=not failed and counts.get('passed', 0) > 0)


def parity(stage: Stage, name: str) -> Piece:
    """A file of numbers of the authors' release, in float32 without TF32."""
    tool = ROOT / 'tools/analysis_tools/check_parity.py'
    file = ROOT / 'tests/data/parity' / name
    done = stage.command(tool, file, '--device', stage.device, '--dtype', 'float32', check=False)
    found = re.search(r'(\d+) of (\d+) keys agree', done.stdout)
    if found is None:
        raise RuntimeError(f'{tool.name} ended with {done.returncode}: {done.stderr[-300:]}')
    failed = [line for line in done.stdout.splitlines() if 'FAILED' in line]
    summary = '; '.join([f'{found[0]} within 1e-4', *failed])
    return Piece(summary, passed=done.returncode == 0 and found[1] == found[2])


def in_this_process(stage: Stage, folder: Path) -> None:
    """What takes no other process."""
    stage.run('losses and gradients as on the CPU', partial(same_as_on_the_cpu, stage))
    stage.run('half precision', partial(half_precision, stage))
    stage.run('fp16 overflow', partial(fp16_overflow, stage))
    for name, settings in (
        ('bf16', {'dtype': 'bfloat16', 'loss_scale': {'enabled': False}}),
        ('fp16', {'dtype': 'float16', 'loss_scale': 'dynamic'}),
    ):
        where = partial(waits, stage, folder / name, 'AmpOptimWrapper', **settings)
        stage.run(f'waits of a training step, {name}', where)


def main(stage: Stage) -> None:
    os.environ.update(stage.environment, CUBLAS_WORKSPACE_CONFIG=':4096:8')
    init_default_scope('mmseg')
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    files = PARITY[:1] if stage.small else PARITY
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ('killed', 'distributed', 'fp16', 'bf16'):
            (folder / name).mkdir()
        beside: dict[str, Callable[[], Piece]] = {
            'tests marked for GPUs': partial(gpu_tests, stage),
            **{f'parity: {name}': partial(parity, stage, name) for name in files},
            'killed and resumed': partial(killed_and_resumed, stage, folder / 'killed'),
            'distributed training': partial(distributed, stage, folder / 'distributed'),
        }
        stage.run_beside(beside, meanwhile=partial(in_this_process, stage, folder))


if __name__ == '__main__':
    main(Stage.from_command_line())
