"""Processes that have torch and the package imported already, for what must not run in pytest's.

A fresh interpreter takes 8 seconds of a core to import them. Here one interpreter per pytest
process does so, and each run is a fork of it: with memory, signals, an exit status and registries
of its own, but without the wait.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from plain_configs import unformatted

ROOT = Path(__file__).parents[2]
PRELOADED = ('pgseg_mm', 'mmseg.apis', 'mmpretrain.apis', 'torch.utils.tensorboard', 'yapf')

prepared = multiprocessing.get_context('forkserver')
"""In place of the context ``'spawn'``: its processes are as fresh, and start at once."""

prepared.set_forkserver_preload(list(PRELOADED))


def run_python(
    command: Sequence[object],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess:
    """What ``subprocess.run([sys.executable, *command], capture_output=True, text=True)`` gives.

    Args:
        command: A script and its arguments, or ``'-m'``, a module and its arguments.
        cwd: Working directory; by default that of pytest.
        env: Environment; by default that of pytest.
        timeout: Seconds.
    """
    words = [str(word) for word in command]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ('stdout', 'stderr')]
        for output in outputs:
            output.touch()
        environment = dict(os.environ if env is None else env)
        process = prepared.Process(
            target=_run, args=(words, str(cwd or Path.cwd()), environment, *map(str, outputs))
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout)
        texts = [output.read_text(encoding='utf-8') for output in outputs]
    return subprocess.CompletedProcess([sys.executable, *words], process.exitcode, *texts)


def _run(words: list[str], cwd: str, env: dict[str, str], stdout: str, stderr: str) -> None:
    for descriptor, path in ((1, stdout), (2, stderr)):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if pytest is in background
    np.random.seed()  # the forks would draw alike
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    is_module = words[0] == '-m'
    sys.argv = words[1:] if is_module else words
    first = cwd if is_module else str(Path(words[0]).resolve().parent)
    given = filter(None, env.get('PYTHONPATH', '').split(os.pathsep))
    of_tests = (str(ROOT / 'tests'), str(ROOT / 'tools'))
    sys.path = [first, *given, *(path for path in sys.path if not path.startswith(of_tests))]
    try:
        with unformatted():
            if is_module:
                runpy.run_module(words[1], run_name='__main__', alter_sys=True)
            else:
                runpy.run_path(words[0], run_name='__main__')
    finally:
        atexit._run_exitfuncs()  # a fork leaves without them
