"""What other tests rely on: a prepared process tells as much as a fresh interpreter."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from prepared_interpreter import interpreter
from prepared_processes import ROOT, RunningPython, run_python, run_ranks


def test_exit_status_and_what_is_said(tmp_path):
    (tmp_path / 'beside.py').write_text('WORD = "found"')
    script = tmp_path / 'script.py'
    script.write_text('import sys, beside\nprint(sys.argv[1], beside.WORD)\nsys.exit("bad")')
    done = run_python([script, 'one'])
    assert (done.returncode, done.stdout, done.stderr) == (1, 'one found\n', 'bad\n')
    assert run_python(['-c', 'import sys; sys.exit(3)']).returncode == 3
    failed = run_python(['-c', '1 / 0'])
    assert failed.returncode == 1 and 'ZeroDivisionError' in failed.stderr
    assert run_python(['-c', 'import os; os.kill(os.getpid(), 9)']).returncode == -9


def test_folder_environment_and_path_are_those_given(tmp_path):
    (tmp_path / 'lib').mkdir()
    (tmp_path / 'lib' / 'given.py').write_text('print("given")')
    env = {**os.environ, 'PYTHONPATH': str(tmp_path / 'lib'), 'WORD': 'w'}
    code = 'import given, os, sys; print(os.getcwd(), os.environ["WORD"], sys.path)'
    done = run_python(['-c', code], cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == 'given' and second.startswith(f'{tmp_path} w ')
    assert str(ROOT / 'tests') not in second and str(ROOT / 'tools') not in second


def test_what_it_starts_is_started_as_by_any_process():
    code = 'import multiprocessing; print(multiprocessing.get_start_method())'
    done = run_python(['-c', code])
    assert done.stdout == f'{multiprocessing.get_start_method()}\n'


@pytest.mark.skipif(sys.platform != 'linux', reason='the peak is read from /proc')
def test_each_has_random_numbers_and_memory_of_its_own():
    draw = ['-c', 'import numpy; print(numpy.random.randint(2**31))']
    assert run_python(draw).stdout != run_python(draw).stdout
    peak = 'print([l for l in open("/proc/self/status") if l.startswith("VmHWM")][0].split()[1])'
    small, large = (
        int(run_python(['-c', f'used = b"x" * {size}\n{peak}']).stdout) for size in (1, 300 * 2**20)
    )
    assert 250 * 2**10 < large - small < 350 * 2**10


def test_ranks_know_each_other(tmp_path):
    script = tmp_path / 'rank.py'
    script.write_text(
        'import os, torch, torch.distributed as dist\n'
        'dist.init_process_group("gloo")\n'
        'value = torch.tensor(dist.get_rank() + 1)\n'
        'dist.all_reduce(value)\n'
        'print(os.environ["LOCAL_RANK"], value.item())\n'
    )
    done = run_ranks([script], 2, os.environ)
    assert [rank.stdout for rank in done] == ['0 3\n', '1 3\n'], done


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_it_and_time_is_limited(tmp_path, number):
    code = 'import time; print("on", flush=True); time.sleep(60)'
    running = RunningPython(['-c', code], tmp_path / 'out', tmp_path / 'err')
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(1)
    assert running.poll() is None
    running.send_signal(number)
    assert running.wait(20) != 0
    with pytest.raises(subprocess.TimeoutExpired):
        run_python(['-c', code], timeout=1)


def test_a_script_starts_prepared_processes(tmp_path):
    (tmp_path / 'script.py').write_text(
        'import os, sys\n'
        'print(os.getcwd(), os.environ["WORD"], sys.argv[1:], "torch" in sys.modules)\n'
        'print("told", file=sys.stderr)\nsys.exit(3)\n'
    )
    env = {**os.environ, 'WORD': 'w'}
    command = [interpreter(), '-u', 'script.py', 'a b']
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, 'told\n')
    assert done.stdout == f"{tmp_path} w ['a b'] True\n"
    killed = subprocess.run([interpreter(), '-c', 'import os; os.kill(os.getpid(), 9)'])
    assert killed.returncode == -9


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_signals_go_through_to_the_prepared_process(tmp_path, number):
    command = [interpreter(), '-c']
    command.append(
        'import os, signal, sys, time\n'
        'signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n'
        'print(os.getpid(), flush=True)\ntime.sleep(60)\n'
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        pid = int(started.stdout.readline())
        assert pid != started.pid
        started.send_signal(number)
        assert started.wait(20) == {signal.SIGTERM: 7, signal.SIGKILL: -9}[number]
    for _ in range(200):
        if not os.path.exists(f'/proc/{pid}'):
            return
        time.sleep(0.1)
    pytest.fail('the process lives on')


def test_where_there_is_a_gpu_each_is_a_fresh_interpreter(monkeypatch, tmp_path):
    """A fork of a process that has looked for GPUs cannot use one."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    asked = '"numpy" in sys.modules, os.getcwd(), os.environ["WORD"]'
    code = f'import os, sys\nprint({asked})\nsys.exit(3)'
    done = run_python(['-c', code], cwd=tmp_path, env={**os.environ, 'WORD': 'w'})
    assert (done.returncode, done.stdout) == (3, f'False {tmp_path} w\n')
    out = tmp_path / 'out'
    running = RunningPython(['-c', 'import time; time.sleep(60)'], out, out)
    assert running.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(timeout=0.1)
    running.kill()
    assert multiprocessing.connection.wait([running.sentinel], timeout=20)
    assert running.wait(20) == -signal.SIGKILL
