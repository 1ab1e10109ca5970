import argparse
import socket
from types import SimpleNamespace

import pytest
import torch

from pgseg_mm.cli import arguments


def refused(capsys, check, *given) -> str:
    """What a check of the command line says, and that it ends the program with status 2."""
    with pytest.raises(SystemExit) as leaving:
        check(argparse.ArgumentParser(prog='tool'), *given)
    assert leaving.value.code == 2
    said = capsys.readouterr().err.rpartition('tool: error: ')[2]
    assert 0 < len(said) <= 600
    return said


def on_device(monkeypatch, device):
    monkeypatch.setattr(arguments, 'get_device', lambda: device)


def test_missing_file_is_reported_by_the_parser():
    complaints = []
    arguments.require_file(SimpleNamespace(error=complaints.append), 'config', '/nowhere/a.py')
    assert complaints == ['config file not found: /nowhere/a.py']


@pytest.mark.parametrize(
    ('device', 'message'),
    [
        ('cuda', 'cuda cannot be used here'),
        ('cuda:7', 'cuda:7 cannot be used here'),
        ('0', '0 is the number of an accelerator, and this machine has none'),
        ('gpu', 'gpu cannot be used here'),
        ('', 'cannot be used here'),
    ],
)
def test_a_device_that_is_not_there(monkeypatch, capsys, device, message):
    on_device(monkeypatch, 'cpu')
    monkeypatch.setattr(torch, 'empty', lambda *_, device: _no_device(device))
    said = refused(capsys, arguments.find_device, device)
    assert message in said
    assert 'cpu' in said


def _no_device(device: torch.device) -> None:
    raise RuntimeError(f'Found no driver for {device}\nand more lines')


def test_devices_that_are_there(monkeypatch):
    parser = argparse.ArgumentParser()
    assert arguments.find_device(parser, None) is None
    assert arguments.find_device(parser, 'cpu') == 'cpu'
    on_device(monkeypatch, 'cuda')
    monkeypatch.setattr(torch, 'empty', lambda *_, device: None)
    assert arguments.find_device(parser, '1') == 'cuda:1'


def test_a_busy_port(capsys):
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen()
        port = server.getsockname()[1]
        said = refused(capsys, arguments.require_port, '127.0.0.1', port)
    assert f'cannot listen on 127.0.0.1, port {port} (Address already in use)' in said
    arguments.require_port(argparse.ArgumentParser(), '127.0.0.1', port)


@pytest.mark.parametrize('port', [0, -1, 70000])
def test_a_port_that_is_none(capsys, port):
    assert 'from 1 to 65535' in refused(capsys, arguments.require_port, '127.0.0.1', port)


@pytest.mark.parametrize('name', ['file/out.npy', '.'])
def test_an_output_that_cannot_be_written(tmp_path, capsys, name):
    (tmp_path / 'file').touch()
    assert '--out' in refused(capsys, arguments.check_output, tmp_path / name)
