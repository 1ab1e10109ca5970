"""Processes that have torch and the package imported already, for what must not run in pytest's.

A fresh interpreter takes 8 seconds of a core to import them. Here one interpreter per pytest
process does so, and each run is a fork of it: with memory, signals, an exit status and registries
of its own, but without the wait. Whether a script finds what it imports is for a real interpreter
to tell. Where there is a GPU each run is a fresh interpreter: a fork of a process that has looked
for GPUs, as mmengine does when it is imported, cannot use one.
"""

import atexit
import contextlib
import ctypes
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import numpy as np
import torch

from plain_configs import unformatted

ROOT = Path(__file__).parents[2]
PRELOADED = ('pgseg_mm', 'mmseg.apis', 'mmpretrain.apis', 'torch.utils.tensorboard', 'yapf')


class PreparedProcess(ForkServerProcess):
    """A fork of the interpreter with the imports done.

    What it starts in turn is started as by any process; multiprocessing would start a fork server
    for it, which imports everything once more.
    """

    _start_method = None


class PreparedContext(ForkServerContext):
    """The context of such processes."""

    Process = PreparedProcess


prepared = PreparedContext()
"""In place of the context ``'spawn'``: its processes are as fresh, and start at once."""

prepared.set_forkserver_preload(list(PRELOADED))


class FreshProcess:
    """A fresh interpreter, with what :class:`RunningPython` needs of a process."""

    def __init__(
        self, words: list[str], cwd: str, env: dict[str, str], stdout: str, stderr: str
    ) -> None:
        self._words, self._cwd, self._env, self._files = words, cwd, env, (stdout, stderr)

    def start(self) -> None:
        out, err = (open(path, 'ab') for path in self._files)  # noqa: SIM115, closed below
        with out, err:
            self._popen = subprocess.Popen(
                [sys.executable, *self._words], cwd=self._cwd, env=self._env, stdout=out, stderr=err
            )
        self.pid = self._popen.pid
        self.sentinel = os.pidfd_open(self.pid) if hasattr(os, 'pidfd_open') else -1

    @property
    def exitcode(self) -> int | None:
        return self._popen.poll()

    def join(self, timeout: float | None = None) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)


class RunningPython:
    """What ``subprocess.Popen([sys.executable, *command])`` gives, as far as tests need it.

    Args:
        command: A script, ``'-m'`` and a module, or ``'-c'`` and code, and the arguments.
        stdout: File for what it says.
        stderr: File for what it says there; it may be the same.
        cwd: Working directory; by default that of pytest.
        env: Environment; by default that of pytest.
    """

    def __init__(
        self,
        command: Sequence[object],
        stdout: Path,
        stderr: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.args = [str(word) for word in command]
        environment = dict(os.environ if env is None else env)
        files = str(stdout), str(stderr)
        told = (self.args, str(cwd or Path.cwd()), environment, *files)
        self._process = (
            FreshProcess(*told)
            if torch.cuda.is_available()
            else prepared.Process(target=_run, args=told)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def sentinel(self) -> int:
        """What ``multiprocessing.connection.wait`` waits for."""
        return self._process.sentinel

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_python(
    command: Sequence[object],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess:
    """What ``subprocess.run([sys.executable, *command], capture_output=True, text=True)`` gives."""
    return run_together([(command, env)], cwd, timeout)[0]


def run_ranks(
    command: Sequence[object], ranks: int, env: Mapping[str, str], timeout: float = 300
) -> list[subprocess.CompletedProcess]:
    """Run a script with ``--launcher pytorch`` as torchrun does, without what torchrun imports."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    known = {**env, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'WORLD_SIZE': str(ranks)}
    command = [*command, '--launcher', 'pytorch']
    each = [{**known, 'RANK': str(rank), 'LOCAL_RANK': str(rank)} for rank in range(ranks)]
    return run_together([(command, one) for one in each], None, timeout)


def run_together(
    runs: Sequence[tuple[Sequence[object], Mapping[str, str] | None]],
    cwd: Path | None,
    timeout: float,
) -> list[subprocess.CompletedProcess]:
    """Run commands, each with its environment, side by side to their end."""
    with tempfile.TemporaryDirectory() as folder:
        files = [[Path(folder, f'{kind}{i}') for kind in ('out', 'err')] for i in range(len(runs))]
        running: list[RunningPython] = []
        try:
            for (command, env), (stdout, stderr) in zip(runs, files, strict=True):
                running.append(RunningPython(command, stdout, stderr, cwd, env))
            for process in running:
                process.wait(timeout)
        finally:
            for process in running:
                process.kill()
        return [
            subprocess.CompletedProcess(
                process.args, process.returncode, *(path.read_text('utf-8') for path in paths)
            )
            for process, paths in zip(running, files, strict=True)
        ]


def _run(words: list[str], cwd: str, env: dict[str, str], stdout: str, stderr: str) -> None:
    if sys.platform == 'linux':  # end with the interpreter that was forked, which ends with pytest
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    for descriptor, path in ((1, stdout), (2, stderr)):
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if pytest is in background
    np.random.seed()  # the forks would draw alike
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    kind = words[0] if words[0] in ('-m', '-c') else ''
    sys.argv = ['-c', *words[2:]] if kind == '-c' else words[1:] if kind else words
    first = cwd if kind else str(Path(words[0]).resolve().parent)
    given = filter(None, env.get('PYTHONPATH', '').split(os.pathsep))
    of_tests = (str(ROOT / 'tests'), str(ROOT / 'tools'))
    sys.path = [first, *given, *(path for path in sys.path if not path.startswith(of_tests))]
    try:
        with unformatted():
            if kind == '-m':
                runpy.run_module(words[1], run_name='__main__', alter_sys=True)
            elif kind == '-c':
                exec(compile(words[1], '<string>', 'exec'), {'__name__': '__main__'})
            else:
                runpy.run_path(words[0], run_name='__main__')
    finally:
        atexit._run_exitfuncs()  # a fork leaves without them
