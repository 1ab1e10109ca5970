"""What tools/slurm_train.sh and tools/slurm_test.sh ask of srun; a stand-in records it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'
JOBS = {'train': ['config.py'], 'test': ['config.py', 'last.pth']}
"""Arguments that each kind of job needs."""
SRUN = """#!{python}
import json, os, sys
record = dict(arguments=sys.argv[1:], environment=dict(os.environ))
json.dump(record, open({record!r}, 'w'))
"""


@pytest.fixture
def srun(tmp_path):
    """Runs a script with settings in the environment, and gives srun's options and command."""
    folder, record = tmp_path / 'bin', tmp_path / 'record.json'
    folder.mkdir()
    (folder / 'srun').write_text(SRUN.format(python=sys.executable, record=str(record)))
    (folder / 'srun').chmod(0o755)

    def run(kind: str, *arguments: str, **settings: str) -> tuple[dict, list[str], dict]:
        names = ('GPUS', 'GPUS_PER_NODE', 'CPUS_PER_TASK', 'SRUN_ARGS', 'PYTHON')
        env = {name: value for name, value in os.environ.items() if name not in names}
        env |= {'PATH': f'{folder}:{env["PATH"]}', **settings}
        subprocess.run([TOOLS / f'slurm_{kind}.sh', *arguments], env=env, check=True)
        told = json.loads(record.read_text())
        options = [word for word in told['arguments'] if word.startswith('--')]
        options = options[: options.index('--launcher')]
        command = told['arguments'][len(options) :]
        return dict(o[2:].partition('=')[::2] for o in options), command, told['environment']

    return run


@pytest.mark.parametrize('kind', JOBS)
def test_two_nodes_of_eight(srun, kind):
    files = [f'my {name}' for name in JOBS[kind]]
    options, command, environment = srun(
        kind,
        'gpu part',
        'pgseg',
        *files,
        '--work-dir',
        'a b',
        '--cfg-options',
        'x=1',
        GPUS='16',
        GPUS_PER_NODE='8',
        CPUS_PER_TASK='12',
        SRUN_ARGS='--time=2-0 --exclusive',
        PYTHON='/opt/python',
        MASTER_PORT='29511',
    )
    assert options == {
        'partition': 'gpu part',
        'job-name': 'pgseg',
        'gres': 'gpu:8',
        'ntasks': '16',
        'ntasks-per-node': '8',
        'cpus-per-task': '12',
        'kill-on-bad-exit': '1',
        'time': '2-0',
        'exclusive': '',
    }
    assert command[:2] == ['/opt/python', '-u']
    assert Path(command[2]).samefile(TOOLS / f'{kind}.py')
    rest = ['--launcher', 'slurm', '--work-dir', 'a b', '--cfg-options', 'x=1']
    assert command[3:] == [*files, *rest]
    assert environment['MASTER_PORT'] == '29511'


@pytest.mark.parametrize('kind', JOBS)
@pytest.mark.parametrize(('gpus', 'per_node'), [({}, '4'), ({'GPUS': '2'}, '2')])
def test_defaults(srun, kind, gpus, per_node):
    options, command, _ = srun(kind, 'gpu', 'pgseg', *JOBS[kind], **gpus)
    assert options['ntasks'] == gpus.get('GPUS', '4')
    assert (options['gres'], options['ntasks-per-node']) == (f'gpu:{per_node}', per_node)
    assert options['cpus-per-task'] == '5'
    assert command[0] == 'python' and command[-2:] == ['--launcher', 'slurm']


@pytest.mark.parametrize('kind', JOBS)
def test_uneven_nodes_and_missing_arguments_are_refused(kind):
    env = {**os.environ, 'GPUS': '6', 'GPUS_PER_NODE': '4'}
    command = [TOOLS / f'slurm_{kind}.sh', 'gpu', 'pgseg', *JOBS[kind]]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'GPUS=6 is no multiple of GPUS_PER_NODE=4' in done.stderr
    done = subprocess.run(
        command, env={**env, 'GPUS': '0'}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and 'GPUS=0 is no number of GPUs' in done.stderr
    done = subprocess.run(command[:-1], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith('usage:')
