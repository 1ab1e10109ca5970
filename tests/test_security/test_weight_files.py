"""Hostile files of weights that are no pickles: downloads, safetensors, JSON and embeddings."""

import io
import json
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner import CheckpointLoader

from checkpoint_zoo import LOADERS
from pgseg_mm import limits
from pgseg_mm.checkpoints.hugging_face import load_hugging_face
from pgseg_mm.models.decode_heads.class_embeds import load_class_embeds
from pgseg_mm.serialization import runner_checkpoints as training_checkpoints
from pgseg_mm.serialization.loading import CheckpointError, load_checkpoint, load_file_safely
from pgseg_mm.serialization.runner_checkpoints import (
    load_checkpoints_safely,
)


def test_headers_of_safetensors_are_bounded(tmp_path):
    text = json.dumps({'__metadata__': {'a': 'x' * limits.SAFETENSORS_HEADER_BYTES}}).encode()
    (tmp_path / 'x.safetensors').write_bytes(struct.pack('<Q', len(text)) + text)
    with pytest.raises(CheckpointError, match='its header has'):
        load_checkpoint(tmp_path / 'x.safetensors')


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of downloads, and addresses to download from."""
    served = {}

    def download(address, path):
        Path(path).write_bytes(served[address])

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    load_checkpoints_safely()
    for number, owner in enumerate(('alice', 'bob')):
        file = io.BytesIO()
        torch.save({'state_dict': {'a': torch.tensor(number)}}, file)
        served[f'https://example.org/{owner}/model.pth'] = file.getvalue()
    return served


def test_downloads_of_one_name_are_different_files(cache):
    loaded = [CheckpointLoader.load_checkpoint(address) for address in cache]
    assert [content['state_dict']['a'].item() for content in loaded] == [0, 1]


def test_a_download_that_was_changed_is_not_used(cache):
    address = next(iter(cache))
    path = training_checkpoints.fetch_checkpoint(address)
    path.write_bytes(cache['https://example.org/bob/model.pth'])
    assert CheckpointLoader.load_checkpoint(address)['state_dict']['a'] == 0


def npy(shape, content=b'', kind='<f4'):
    file = io.BytesIO()
    header = {'descr': kind, 'fortran_order': False, 'shape': shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


def npz(embeds, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', compression) as archive:
        archive.writestr('embeds.npy', embeds)
        archive.writestr('class_index.npy', npy((1,), bytes(8), '<i8'))
    return file.getvalue()


@pytest.mark.parametrize(
    'content',
    [
        npy((10**11, 2)),
        npy((3, 2), bytes(23)),
        npy((1, 1), bytes(8), '|O'),
        npy((1, 1), bytes(8), [('a', '|O')]),
        npy((2**62, 2**62), bytes(8)),
        npy((2 * 10**8,), b'', '<U0'),
        npy((2 * 10**8, 0), b''),
        npy((1, 1), bytes(8)).replace(b'(1, 1)', b'(-1,1)'),
        b'\x93NUMPY\2\0\xff\xff\xff\x7f',
        b'\x93NUMPY',
        b'PK\3\4',
        b'',
    ],
    ids=lambda content: repr(content[-30:]),
)
def test_class_embeddings_are_as_long_as_declared(tmp_path, content):
    (tmp_path / 'x.npy').write_bytes(content)
    (tmp_path / 'x.npz').write_bytes(npz(content))
    (tmp_path / 'y.npz').write_bytes(content)
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(CheckpointError, match=path.name):
            load_class_embeds(path)


@pytest.mark.parametrize('compression', [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_arrays_are_compressed_as_numpy_does_it(tmp_path, compression):
    """Of other ways zipfile unpacks all that it has read, whatever the directory declares."""
    (tmp_path / 'x.npz').write_bytes(npz(npy((3, 2), bytes(24)), compression))
    with pytest.raises(CheckpointError, match='compressed otherwise'):
        load_class_embeds(tmp_path / 'x.npz')


def tar_header(name: bytes, size: bytes, kind: bytes) -> bytes:
    start = name.ljust(100, b'\0') + b'0000644\0' * 3 + size.rjust(11, b'0') + b'\0'
    return (start.ljust(156, b' ') + kind).ljust(257, b'\0') + b'ustar\x0000'.ljust(255, b'\0')


@pytest.mark.parametrize(
    'content',
    [
        tar_header(b'a', b'4000000', b'x') + b'9' * 2**20,
        (tar_header(b'././@LongLink', b'2', b'L') + bytes(512)) * 3000,
        tar_header(b'a', b'\x80'.ljust(11, b'\xff'), b'0'),
        tar_header(b'a', b'-1', b'0'),
        tar_header(b'a', b'77777777777', b'0')[:300],
    ],
    ids=['pax', 'links', 'size', 'negative', 'cut'],
)
def test_a_tar_archive_costs_nothing(tmp_path, content):
    (tmp_path / 'x.pth').write_bytes(content)
    start = time.process_time()
    with pytest.raises(CheckpointError, match='tar archive'):
        load_file_safely(tmp_path / 'x.pth')
    assert time.process_time() - start < 1


def test_class_embeddings_unpack_to_a_gigabyte_at_most(tmp_path, monkeypatch):
    content = npy((300, 10**5), bytes(12 * 10**7))
    path = tmp_path / 'x.npz'
    path.write_bytes(npz(content, zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError, match='unpack to 1200'):
        load_class_embeds(path)
    path.write_bytes(npz(npy((3, 2), bytes(24)), zipfile.ZIP_DEFLATED))
    assert load_class_embeds(path).embeds.shape == (3, 2)
    monkeypatch.setattr(limits, 'MAX_UNPACKED_ARRAYS', -(10**3))
    with pytest.raises(CheckpointError, match='unpack to'):
        load_class_embeds(path)


@pytest.mark.parametrize(
    'content',
    [b'[' * 5000, b'{"a":' * 900, b'["' + 'ä'.encode() * 3000 + b'"]'],
    ids=lambda c: c[:9],
)
def test_json_of_any_depth_is_no_checkpoint(tmp_path, content):
    (tmp_path / 'x.pth').write_bytes(content)
    for load in LOADERS.values():
        with pytest.raises(CheckpointError, match='JSON'):
            load(tmp_path / 'x.pth')


def test_a_large_directory_of_an_archive_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, 'CHECKPOINT_DIRECTORY_BYTES', 5000)
    with zipfile.ZipFile(tmp_path / 'x.pth', 'w') as archive:
        for number in range(100):
            archive.writestr(f'{number}.txt', b'')
    with pytest.raises(CheckpointError, match='a directory of'):
        load_file_safely(tmp_path / 'x.pth')


@pytest.mark.parametrize('text', ['{"a": ' + '9' * 5000 + '}', '[' * 10**5, '[]', '\udcff'])
def test_a_damaged_config_of_hugging_face_is_one_kind_of_error(tmp_path, text):
    (tmp_path / 'config.json').write_text(text, errors='surrogateescape')
    with pytest.raises(CheckpointError, match='JSON'):
        load_hugging_face(tmp_path)
