"""Checkpoints of unknown origin are read, and nothing that they hold is run."""

import argparse
import collections
import io
import os
import pickle
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest
import torch

from pgseg_mm.serialization.loading import CheckpointError, load_checkpoint, load_file_safely
from pgseg_mm.serialization.placeholders import ForeignObject

LEGACY = {'zip': False, 'legacy': True}


def save(content, path, legacy=False, protocol=2):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    return path


def write_raw(pickled: bytes, path, legacy: bool):
    """A file of torch.save with a pickle of our own making."""
    if legacy:
        head = [
            torch.serialization.MAGIC_NUMBER,
            torch.serialization.PROTOCOL_VERSION,
            {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {}},
        ]
        path.write_bytes(b''.join(pickle.dumps(x, 2) for x in head) + pickled + pickle.dumps([], 2))
        return path
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('archive/data.pkl', pickled)
        file.writestr('archive/version', '3\n')
    return path


@pytest.fixture
def evil(monkeypatch):
    """An importable module whose parts note that they were used."""
    module = types.ModuleType('evil')
    module.used = []

    class Type:
        def __new__(cls, *args, **kwargs):
            module.used.append('new')
            return super().__new__(cls)

        def __init__(self, *args):
            module.used.append('init')

        def __setstate__(self, state):
            module.used.append('setstate')

    Type.__module__, Type.__qualname__ = 'evil', 'Type'
    module.Type = Type
    module.function = lambda *args: module.used.append('function')
    module.function.__module__, module.function.__qualname__ = 'evil', 'function'
    monkeypatch.setitem(sys.modules, 'evil', module)
    return module


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def stored(evil):
    instance = object.__new__(evil.Type)
    instance.__dict__['value'] = 1
    evil.used.clear()
    return instance


@pytest.mark.parametrize('legacy', LEGACY.values(), ids=LEGACY)
@pytest.mark.parametrize('protocol', [2, 4])
def test_pickled_code_does_not_run(tmp_path, evil, legacy, protocol):
    marker = tmp_path / 'ran'
    weight = torch.arange(6.0).view(2, 3)
    content = {
        'model': {'weight': weight},
        'call': Call(os.system, f'touch {marker}'),
        'expression': Call(eval, f'open({str(marker)!r}, "w")'),
        'config': {'nested': [Call(evil.function, 1), stored(evil)]},
        'torch': [Call(torch.load, 'x'), Call(torch.hub.load, 'x'), Call(torch.jit.load, 'x')],
        'attribute': Call(getattr, Call(__import__, 'os'), 'system'),
    }
    path = save(content, tmp_path / 'evil.pth', legacy, protocol)
    loaded = load_file_safely(path)
    assert evil.used == []
    assert not marker.exists()
    assert torch.equal(loaded.content['model']['weight'], weight)
    assert {'posix.system', 'builtins.eval', 'evil.function', 'evil.Type'} <= {
        name.replace('__builtin__', 'builtins') for name in loaded.foreign
    }
    assert isinstance(loaded.content['call'], ForeignObject)
    assert loaded.content['config']['nested'][1].state == {'value': 1}


def test_trust_runs_it(tmp_path, evil):
    path = save({'model': {}, 'call': Call(evil.function)}, tmp_path / 'evil.pth')
    load_file_safely(path)
    assert evil.used == []
    load_file_safely(path, trust=True)
    assert evil.used == ['function']


REBUILD = b'ctorch._utils\n_rebuild_tensor_v2\n'
RAW = {
    'a call by INST': b'(S"x"\nievil\nfunction\n.',
    'a call by OBJ': b'(cevil\nfunction\nS"x"\no.',
    'a class by NEWOBJ': b'\x80\x02cevil\nType\n)\x81.',
    'a class by NEWOBJ_EX': b'\x80\x04cevil\nType\n)}\x92.',
    'a state': b'\x80\x02cevil\nType\n)\x81}b.',
    'a dotted name': b'\x80\x04\x8c\x04evil\x8c\x12used.__class__.mro\x93)R.',
    'a name through torch': b'\x80\x04\x8c\x05torch\x8c\x09os.system\x93\x8c\x04true\x85R.',
    'a subclass hook': b'\x80\x04\x8c\x08builtins\x8c\x04type\x93\x8c\x01x)}\x87R.',
}
REFUSED = {
    'the defaults of a function': b'\x80\x02'
    + REBUILD
    + b'N}X\x0c\x00\x00\x00__defaults__)s\x86b.',
    'the state of a function': b'\x80\x02' + REBUILD + b'}b.',
    'a call of a called result': b'\x80\x02ccollections\nOrderedDict\n)R)R.',
    'a text persistent id': b'Pmodule\n.',
    'a module by persistent id': b'\x80\x02(X\x06\x00\x00\x00modulecevil\nType\nX\x01\x00\x00\x00fX'
    b'\x01\x00\x00\x00stQ.',
    'a number as text': b'I0x' + b'f' * 2000 + b'\n.',
    'a long number as text': b'L0x' + b'f' * 2000 + b'L\n.',
    'an extension code': b'\x80\x02\x82\x01.',
    'a codec': b'\x80\x02cevil\nType\n0c_codecs\nencode\n'
    b'X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.',
    'no arguments': b'\x80\x02ccollections\nOrderedDict\nNR.',
    'elements of a tensor type': b'\x80\x02' + REBUILD + b'K\x01a.',
    'items of a tensor type': b'\x80\x02' + REBUILD + b'K\x01K\x02s.',
    'a tensor of a foreign storage': b'\x80\x02' + REBUILD + b'(cevil\nType\nK\x00))\x89NtR.',
    'a truncated pickle': b'\x80\x02}X\x05\x00',
    'an unknown opcode': b'\x80\x02\xff.',
}


@pytest.mark.parametrize('legacy', LEGACY.values(), ids=LEGACY)
@pytest.mark.parametrize('case', RAW)
def test_hand_written_pickles_yield_placeholders(tmp_path, evil, case, legacy):
    content, foreign = load_file_safely(write_raw(RAW[case], tmp_path / 'raw.pth', legacy))
    assert isinstance(content, ForeignObject)
    assert foreign
    assert evil.used == []
    with pytest.raises(CheckpointError, match='holds no state dict, but an object of'):
        load_checkpoint(tmp_path / 'raw.pth')


@pytest.mark.parametrize('legacy', LEGACY.values(), ids=LEGACY)
@pytest.mark.parametrize('case', REFUSED)
def test_hand_written_pickles_are_refused(tmp_path, evil, case, legacy):
    defaults = torch._utils._rebuild_tensor_v2.__defaults__
    with pytest.raises(CheckpointError, match='raw.pth cannot be read as a PyTorch checkpoint'):
        load_file_safely(write_raw(REFUSED[case], tmp_path / 'raw.pth', legacy))
    assert evil.used == []
    assert torch._utils._rebuild_tensor_v2.__defaults__ == defaults
    assert not vars(torch._utils._rebuild_tensor_v2)


def test_torchscript_is_refused(tmp_path):
    class Net(torch.nn.Module):
        def forward(self, x):
            return x + 1

    torch.jit.script(Net()).save(str(tmp_path / 'net.pth'))
    with pytest.raises(CheckpointError, match='TorchScript program'):
        load_file_safely(tmp_path / 'net.pth')


def test_tar_format_is_refused(tmp_path, evil):
    with tarfile.open(tmp_path / 'old.pth', 'w') as tar:
        for name in ('storages', 'tensors', 'pickle'):
            data = b'cevil\nfunction\n(tR.'
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(CheckpointError, match='tar format'):
        load_file_safely(tmp_path / 'old.pth')
    assert evil.used == []


@pytest.mark.parametrize('legacy', LEGACY.values(), ids=LEGACY)
def test_training_checkpoint_loads_with_its_tensors(tmp_path, monkeypatch, legacy):
    """As the release saves them: a config object, an optimizer, numpy values beside the model."""
    omegaconf = types.ModuleType('omegaconf')
    for name in ('DictConfig', 'ListConfig', 'AnyNode'):
        kind = type(name, (), {'__module__': 'omegaconf'})
        setattr(omegaconf, name, kind)
    monkeypatch.setitem(sys.modules, 'omegaconf', omegaconf)
    base = torch.randn(4, 6)
    state = collections.OrderedDict(
        full=base,
        view=base[1:3, ::2],
        half=torch.randn(3).half(),
        bfloat=torch.randn(3).bfloat16(),
        count=torch.tensor(7),
        learned=torch.nn.Parameter(torch.randn(2)),
        flag=torch.tensor([True, False]),
    )
    state._metadata = {'': {'version': 1}}
    content = {
        'model': state,
        'optimizer': {'state': {0: {'exp_avg': base + 1}}, 'param_groups': [{'lr': 1e-3}]},
        'config': omegaconf.DictConfig(),
        'args': argparse.Namespace(lr=np.float64(0.1)),
        'max_accuracy': np.float64(52.3),
        'epoch': 3,
        'bytes': b'raw',
        'names': {'a', 'b'},
    }
    path = save(content, tmp_path / 'epoch_3.pth', legacy)
    monkeypatch.delitem(sys.modules, 'omegaconf')  # as where it is not installed
    checkpoint = load_checkpoint(path)
    assert list(checkpoint.state_dict) == list(state)
    for name, value in state.items():
        assert checkpoint.state_dict[name].dtype == value.dtype
        assert torch.equal(checkpoint.state_dict[name], value)
    assert torch.equal(checkpoint.extras['optimizer']['state'][0]['exp_avg'], base + 1)
    assert (checkpoint.extras['epoch'], checkpoint.extras['bytes']) == (3, b'raw')
    assert checkpoint.extras['names'] == {'a', 'b'}
    assert {'omegaconf.DictConfig', 'argparse.Namespace'} <= set(checkpoint.foreign)
    assert checkpoint.extras['args'].state.keys() == {'lr'}


def test_where_the_state_dict_is(tmp_path):
    state = {'a.weight': torch.ones(2), 'b': torch.zeros(())}
    wrapped = {f'module.{name}': value for name, value in state.items()}
    for content in (state, {'model': state}, {'state_dict': wrapped, 'meta': {}}, wrapped):
        found = load_checkpoint(save(content, tmp_path / 'x.pth')).state_dict
        assert found.keys() == state.keys()
    # mmengine's own place comes first, averaged weights are left aside
    both = {'ema_state_dict': wrapped, 'state_dict': state, 'message_hub': {}}
    checkpoint = load_checkpoint(save(both, tmp_path / 'x.pth'))
    assert checkpoint.state_dict.keys() == state.keys()
    assert list(checkpoint.extras) == ['ema_state_dict', 'message_hub']


def test_what_is_no_checkpoint_is_said_clearly(tmp_path):
    with pytest.raises(FileNotFoundError, match='absent.pth does not exist'):
        load_checkpoint(tmp_path / 'absent.pth')
    with pytest.raises(CheckpointError, match='is a folder'):
        load_checkpoint(tmp_path)
    page = tmp_path / 'page.pth'
    page.write_text('<!DOCTYPE html><title>Sign in</title>')
    with pytest.raises(CheckpointError, match='cannot be read as a PyTorch checkpoint'):
        load_checkpoint(page)
    page.rename(tmp_path / 'page.safetensors')
    with pytest.raises(CheckpointError, match='cannot be read as a safetensors checkpoint'):
        load_checkpoint(tmp_path / 'page.safetensors')
    with pytest.raises(CheckpointError, match="entry 'epoch' is of type int"):
        load_checkpoint(save({'weight': torch.ones(1), 'epoch': 3}, tmp_path / 'x.pth'))
    with pytest.raises(CheckpointError, match='an empty mapping'):
        load_checkpoint(save({'model': {}}, tmp_path / 'x.pth'))
    complete = save({'model': {'a': torch.ones(1000)}}, tmp_path / 'x.pth').read_bytes()
    (tmp_path / 'cut.pth').write_bytes(complete[:2000])
    with pytest.raises(CheckpointError, match='cut.pth cannot be read'):
        load_checkpoint(tmp_path / 'cut.pth')


@pytest.mark.parametrize('number', [300, 2000])
def test_legacy_files_of_many_tensors(tmp_path, number):
    """Their pickle takes more than is read of it at a time."""
    content = {f'layers.{i}.attention.weight': torch.full((2, 3), float(i)) for i in range(number)}
    path = save(content, tmp_path / 'many.pth', legacy=True)
    loaded = load_file_safely(path).content
    assert list(loaded) == list(content)
    assert all(torch.equal(loaded[name], content[name]) for name in content)
