"""The benchmark of matching and NPR, at a small size."""

import json
import subprocess
from pathlib import Path

from prepared_processes import run_python

ROOT = Path(__file__).parents[2]
TINY = ROOT / 'configs/pgseg/pgseg_tiny-p8_emoji-scenes-64x64.py'


def run(*options: object) -> subprocess.CompletedProcess:
    return run_python(['-m', 'benchmarks.npr', *options], cwd=ROOT)


def test_times_solvers_losses_and_steps(tmp_path):
    out = tmp_path / 'raw' / 'npr.json'
    done = run(TINY, '--batch', 6, '--micro-batch', 3, '--rounds', 2, '--json', out)
    assert done.returncode == 0, done.stderr
    raw = json.loads(out.read_text())
    names = {
        'scipy, one thread; near',
        'scipy in threads (match_prototypes); noise',
        'NPR, 8 groups',
        'encoder',
        'step without NPR',
        'step with NPR',
    }
    assert names <= raw['seconds'].keys()
    assert all(len(times) == 2 and min(times) > 0 for times in raw['seconds'].values())
    assert (raw['batch'], raw['micro_batch']) == (6, 3)
    encoder = 2 * sum(raw['seconds']['encoder']) / 2  # median of two, for twice the images
    assert f'{encoder:.3f} s for 6 images' in done.stdout


def test_refuses_a_model_without_npr():
    done = run(ROOT / 'configs/groupvit/groupvit_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py')
    assert done.returncode == 1
    assert 'has no loss_npr' in done.stderr
