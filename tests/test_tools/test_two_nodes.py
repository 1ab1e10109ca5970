"""Two machines, here two launchers on one, find each other by tools/dist_train.sh."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / 'tools' / 'dist_train.sh'
TRAIN = """
import json, os, sys
import torch.distributed as dist
dist.init_process_group('gloo')
told = [None] * dist.get_world_size()
names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'GROUP_RANK')
dist.all_gather_object(told, [int(os.environ[name]) for name in names])
if dist.get_rank() == 0:
    json.dump(dict(told=told, arguments=sys.argv[1:]), open('told.json', 'w'))
dist.destroy_process_group()
"""


def test_two_nodes_of_one_process_each(tmp_path):
    (tmp_path / 'train.py').write_text(TRAIN)
    (tmp_path / SCRIPT.name).symlink_to(SCRIPT)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    job = {'NNODES': '2', 'MASTER_ADDR': '127.0.0.1', 'PORT': str(port), 'PYTHON': sys.executable}
    nodes = [
        subprocess.Popen(
            ['bash', SCRIPT.name, 'config.py', '1', '--amp'],
            cwd=tmp_path,
            env={**os.environ, **job, 'NODE_RANK': str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [node.communicate(timeout=120)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    record = json.loads((tmp_path / 'told.json').read_text())
    # rank, rank on the machine, processes in all, machine
    assert record['told'] == [[0, 0, 2, 0], [1, 0, 2, 1]]
    assert record['arguments'] == ['config.py', '--launcher', 'pytorch', '--amp']
