"""Workers of a loader outlive signals to the job, and end with the process that has the loader."""

import os
import subprocess
import sys

import pytest

from pages import ROOT

SCRIPT = """
import os, signal, sys, time
from functools import partial
from torch.utils.data import DataLoader

def begin(owner, worker):
    from pgseg_mm.integration import outlive_signals
    outlive_signals(owner)

if __name__ == '__main__':
    begin_worker = partial(begin, os.getpid())
    context = dict(multiprocessing_context=sys.argv[1])
    loader = DataLoader(
        range(8), num_workers=1, persistent_workers=True, worker_init_fn=begin_worker, **context
    )
    batches = iter(loader)
    next(batches)
    if sys.argv[1] == 'fork':  # a sender that is not the owner
        if (child := os.fork()) == 0:
            os.kill(batches._workers[0].pid, signal.SIGTERM)
            os._exit(0)
        os.waitpid(child, 0)
        time.sleep(0.5)
    print('alive:', batches._workers[0].is_alive())
"""


@pytest.mark.parametrize('start', ['fork', 'forkserver', 'spawn'])
def test_a_job_ends_whose_workers_were_started_in_any_way(tmp_path, start):
    (tmp_path / 'job.py').write_text(SCRIPT)
    command = [sys.executable, tmp_path / 'job.py', start]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 'alive: True' in done.stdout
