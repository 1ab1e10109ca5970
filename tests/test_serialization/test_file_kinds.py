import gzip
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save

from pgseg_mm.serialization.file_kinds import foreign_kind
from pgseg_mm.serialization.loading import CheckpointError, load_checkpoint, load_file_safely
from pgseg_mm.serialization.runner_checkpoints import (
    load_checkpoints_safely,
    load_training_checkpoint,
    load_trusted_checkpoint,
)

LFS = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n'
FILES = {
    'page': (b'\n<!DOCTYPE html>\n<html><head><title>Sign in</title>', 'is a web page'),
    'page with a mark': (b'\xef\xbb\xbf<HTML><body>moved</body>', 'is a web page'),
    'pointer': (LFS, 'is a pointer of Git LFS.*git lfs pull'),
    'json': (json.dumps({'error': 'rate limit'}).encode(), 'is a JSON file'),
    'long json': (json.dumps({'vocabulary': list(range(5000))}).encode(), 'is a JSON file'),
    'safetensors': (save({'a': torch.ones(2)}), r'rename it to end in \.safetensors'),
    'empty': (b'', 'is an empty file, as an interrupted download'),
    'zeros': (bytes(5000), 'begins with zeros only'),
    'gzip': (gzip.compress(b'weights'), 'is a gzip archive; unpack it'),
    'image': (b'\x89PNG\r\n\x1a\n' + bytes(20), 'is a PNG image'),
    'array': (b'\x93NUMPY\x01\x00', 'is a NumPy array'),
    'text': (b'Access to this file is denied.\nAsk its owner.\n', 'is a text file'),
    'word': (b'hello there', r"is text, not a checkpoint; it begins with b'hello there'"),
    'code': (b"_base_ = './toy.py'\n", 'is (a )?text'),
    'access': (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', 'HTML or XML'),
    'onnx': (b'\x08\x07\x12\x07pytorch\x1a\x052.0.1' + bytes(500), 'is an ONNX model'),
    'unknown': (b'\x08\x01\xff\xfe\x07' * 90, 'is of no format that PyTorch writes'),
    'cut off': (b'PK\x03\x04' + bytes(range(9, 99)) * 9, 'begins as a file of torch.save and has'),
    'yaml': ('name: Müller\nweights: none\n'.encode(), 'is a text file'),
}


@pytest.mark.parametrize('kind', FILES)
@pytest.mark.parametrize(
    'load', [load_file_safely, load_checkpoint, load_training_checkpoint, load_trusted_checkpoint]
)
def test_says_what_it_is_and_advises_no_trust(tmp_path, kind, load):
    content, message = FILES[kind]
    path = tmp_path / 'last.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path)
    said = str(caught.value)
    assert 'trust' not in said and 'could run code' not in said
    assert len(said) <= 600


def test_an_archive_of_other_files(tmp_path):
    path = tmp_path / 'all.pth'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('folder/last.pth', b'weights')
    with pytest.raises(CheckpointError, match='is a ZIP archive of 1 files.*unpack it'):
        load_training_checkpoint(path)


def test_an_archive_of_another_kind(tmp_path):
    path = tmp_path / 'all.pth'
    (tmp_path / 'a').write_text('weights')
    with tarfile.open(path, 'w') as archive:
        archive.add(tmp_path / 'a', 'a')
    with pytest.raises(CheckpointError, match='is a tar archive; unpack it'):
        load_training_checkpoint(path)


@pytest.mark.parametrize('length', [30, 9000])
def test_a_pickle_of_the_first_protocol_may_be_a_checkpoint(tmp_path, length):
    path = tmp_path / 'a.pth'
    path.write_bytes(pickle.dumps({'a': list(range(length))}, protocol=0))
    assert foreign_kind(path) is None


@pytest.mark.parametrize(
    ('address', 'said'),
    [
        ('http://127.0.0.1:9/a.pth', r'cannot be downloaded \(.*Connection refused'),
        ('nosuch://a.pth', 'addresses of this kind are not known'),
        ('file:///a.pth', 'addresses of this kind are not known'),
    ],
)
def test_addresses_without_a_checkpoint(tmp_path, monkeypatch, address, said):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    load_checkpoints_safely()
    with pytest.raises(CheckpointError, match=said):
        CheckpointLoader.load_checkpoint(address)


def test_a_file_of_pytorch_called_safetensors(tmp_path):
    path = tmp_path / 'model.safetensors'
    torch.save({'a': torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match=r'rename it to end in \.pth'):
        load_checkpoint(path)


@pytest.mark.parametrize('protocol', range(6))
def test_pickles_may_be_checkpoints(tmp_path, protocol):
    path = tmp_path / 'old.pth'
    path.write_bytes(pickle.dumps({'state_dict': {'a name of a weight': 1.0}}, protocol))
    assert foreign_kind(path) is None


@pytest.mark.parametrize('new', [True, False], ids=['zip', 'legacy'])
def test_checkpoints_are_checkpoints(tmp_path, new):
    path = tmp_path / 'old.pth'
    content = {'state_dict': {'a': torch.from_numpy(np.ones(3))}}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    assert foreign_kind(path) is None
    assert load_checkpoint(path).state_dict['a'].tolist() == [1, 1, 1]
