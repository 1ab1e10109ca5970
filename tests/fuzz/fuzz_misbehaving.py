"""A target that does all that the harness must notice; no attack on anything."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

KINDS = [
    'behaves', 'refuses', 'fails', 'deletes', 'reads', 'writes', 'connects', 'starts', 'imports',
    'hoards', 'hangs', 'dies', 'babbles', 'executes',
]  # fmt: skip
REFUSALS = (ValueError,)


def cases(seed: int) -> Iterator[tuple[str, bytes]]:
    for kind in KINDS:
        yield f'{kind}::.txt', kind.encode()


def attempt(path: str) -> None:
    kind = Path(path).read_text()
    if kind == 'refuses':
        raise ValueError('no')
    if kind == 'fails':
        raise KeyError('no')
    if kind == 'babbles':
        raise ValueError('no ' * 999)
    if kind == 'deletes':
        (Path(path).parents[2] / 'not_there').unlink(missing_ok=True)
    if kind == 'reads':
        Path('/etc/hostname').exists() and Path('/etc/hostname').read_bytes()
    if kind == 'writes':
        open('/dev/full', 'w').close()
    if kind == 'connects':
        socket.socket().connect_ex(('127.0.0.1', 9))
    if kind == 'starts':
        subprocess.run([sys.executable, '-c', ''])
    if kind == 'imports':  # by a name that was given
        __import__('not_there')
    if kind == 'hoards':
        sum(bytearray(2**30 + 2**28)[::4096])
    if kind == 'hangs':
        time.sleep(60)
    if kind == 'dies':
        os._exit(3)
    if kind == 'executes':
        exec('pass')
