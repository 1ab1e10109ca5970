"""An interpreter for scripts that start Python by themselves; each start is a prepared process.

``tools/dist_train.sh`` and torchrun start what ``PYTHON`` and ``PYTHON_EXEC`` name. Here that is a
small program which hands its arguments, folder and environment to pytest's process, passes signals
on, and ends as the process does that runs in its place. What it starts is a fork of an interpreter
with all imports done, see :mod:`prepared_processes`.
"""

import atexit
import functools
import json
import shutil
import socket
import sys
import tempfile
import threading
from multiprocessing.connection import wait
from pathlib import Path

from prepared_processes import RunningPython

CLIENT = """\
#!{python} -IS
import json, os, signal, socket, sys

server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
words = sys.argv[1:]
while words[0] in ('-u', '-B'):
    del words[0]
asked = dict(pid=os.getpid(), words=words, cwd=os.getcwd(), env=dict(os.environ))
server.sendall(json.dumps(asked).encode() + b'\\n')
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: server.sendall(bytes([number])))
answer = b''
while part := server.recv(64):
    answer += part
status = int(answer or 1)
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


def launchers() -> dict[str, str]:
    """Variables by which the scripts in ``tools/`` and torchrun start prepared processes."""
    return {'PYTHON': str(interpreter()), 'PYTHON_EXEC': str(interpreter())}


@functools.cache
def interpreter() -> Path:
    """Program to run in place of ``sys.executable``, for as long as this process lives."""
    if sys.platform != 'linux':  # a process's output is found in /proc
        return Path(sys.executable)
    folder = Path(tempfile.mkdtemp(prefix='python'))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / 'socket'))
    listener.listen()
    threading.Thread(target=_serve, args=(listener,), daemon=True).start()
    program = folder / 'python'
    program.write_text(CLIENT.format(python=sys.executable, address=str(folder / 'socket')))
    program.chmod(0o700)
    return program


def _serve(listener: socket.socket) -> None:
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_answer, args=(client,), daemon=True).start()


def _answer(client: socket.socket) -> None:
    """Run what a client asks for, until it or the client has ended."""
    with client, client.makefile('rb', buffering=0) as lines:
        asked = json.loads(lines.readline())
        outputs = [Path(f'/proc/{asked["pid"]}/fd/{number}') for number in (1, 2)]
        process = RunningPython(asked['words'], *outputs, Path(asked['cwd']), asked['env'])
        while client in wait([client, process.sentinel]):
            numbers = client.recv(64)
            if not numbers:  # the client was killed
                process.kill()
                process.wait()
                return
            for number in numbers:
                process.send_signal(number)
        client.sendall(str(process.wait()).encode())
