"""A checkpoint of a stranger runs nothing, reaches nothing and costs little; whatever it holds."""

import contextlib
import io
import os
import struct
import time
import zipfile

import pytest
import torch
from mmengine.logging import HistoryBuffer

from checkpoint_zoo import LOADERS
from fuzz.hostile_checkpoints import (
    archive,
    colliding_tuples,
    legacy,
    repetitions,
    training_checkpoint,
)
from pgseg_mm import limits
from pgseg_mm.checkpoints.release_config import heads_of_release_config
from pgseg_mm.serialization.allowed_names import MAKERS
from pgseg_mm.serialization.loading import CheckpointError, load_checkpoint, load_file_safely
from pgseg_mm.serialization.placeholders import ForeignObject
from pgseg_mm.serialization.runner_checkpoints import (
    load_training_checkpoint,
)

WEIGHTS = b'(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\3\0\0\0cpuK\x06tQ'
DTYPE = b'cnumpy\ndtype\n(X\2\0\0\0f8\x89\x88tR'
OF_OBJECTS = b'cnumpy\ndtype\n(X\2\0\0\0V8\x89\x88tR'
"""Bytes that are then said to be a sub-array of objects."""
SUB_ARRAY = b'(K\3X\1\0\0\0|cnumpy\ndtype\n(X\1\0\0\0O\x89\x88tRK\1\x85\x86NNK\x08K\x01K\x00tb'


def written(tmp_path, code, build=archive, name='hostile.pth'):
    path = tmp_path / name
    path.write_bytes(build(b'\x80\x04' + code + b'.'))
    return path


def as_legacy(pickled):
    return legacy(pickled, ['0'], [6])


def test_bytes_of_a_file_never_become_pointers(tmp_path):
    element = struct.pack('<Q', id(os))
    of_objects = OF_OBJECTS + SUB_ARRAY
    buffer = b'C\x08' + element
    code = b'cnumpy\nndarray\n(K\1\x85' + of_objects + buffer + b'tR'
    for entry in (code, of_objects, code.replace(b'tR', b't\x81')):
        path = written(tmp_path, b'}X\1\0\0\0a' + entry + b's')
        with pytest.raises(CheckpointError, match='refused'):
            load_training_checkpoint(path)
        assert isinstance(load_file_safely(path).content['a'], ForeignObject)


@pytest.mark.parametrize('code', ['O', 'V8', 'f8,O', '2O', 'O8', 'm8', 'f16', 'U9999999', ''])
def test_arrays_are_of_plain_numbers_or_text(tmp_path, code):
    array = b'cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85C\1btR(K\1K\1\x85'
    dtype = DTYPE.replace(b'X\2\0\0\0f8', b'X' + struct.pack('<I', len(code)) + code.encode())
    path = written(tmp_path, b'}X\1\0\0\0a' + array + dtype + b'\x89C\x08' + bytes(8) + b'tbs')
    with pytest.raises(CheckpointError, match='refused'):
        load_training_checkpoint(path)
    good = written(tmp_path, b'}X\1\0\0\0a' + array + DTYPE + b'\x89C\x08' + bytes(8) + b'tbs')
    assert load_training_checkpoint(good)['a'].tolist() == [0.0]


def test_a_file_adds_no_statistics_to_history_buffers(tmp_path):
    before = dict(HistoryBuffer._statistics_methods)
    buffer = HistoryBuffer([1.0], [1])
    state = buffer.__getstate__() | {'statistics_methods': {'mean': 'something else', 'mine': 1}}
    try:
        content = {'message_hub': _Stated(state)}
        torch.save(content, tmp_path / 'x.pth')
    finally:
        HistoryBuffer._statistics_methods = before
    with pytest.raises(CheckpointError, match='refused'):
        load_training_checkpoint(tmp_path / 'x.pth')
    assert HistoryBuffer._statistics_methods == before


class _Stated:
    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return HistoryBuffer, (), self.state


def test_what_a_file_can_call_is_this_list_of_our_own_functions():
    assert {name for _, name in MAKERS} == {
        '_rebuild_parameter',
        '_rebuild_tensor',
        '_rebuild_tensor_v2',
        '_rebuild_tensor_v3',
        'Counter',
        'OrderedDict',
        'Size',
        'bytes',
        'complex',
        'device',
        'set',
    }
    home = 'pgseg_mm.serialization.allowed_names'
    assert {maker.__module__ for maker in MAKERS.values()} == {home}


@pytest.mark.parametrize('build', [archive, as_legacy], ids=['zip', 'legacy'])
@pytest.mark.parametrize(
    ('offset', 'size', 'stride'),
    [(0, 7, 1), (1, 6, 1), (0, 2, 6), (2**40, 1, 1), (-1, 1, 1), (0, 2**40, 1), (0, 2**40, 0)],
)
def test_tensors_end_where_their_numbers_end(tmp_path, build, offset, size, stride):
    def number(value):
        return b'\x8a\x08' + struct.pack('<q', value)

    shape = number(size) + b'\x85' + number(stride) + b'\x85'
    start = b'}X\1\0\0\0actorch._utils\n_rebuild_tensor\n(' + WEIGHTS
    path = written(tmp_path, start + number(offset) + shape + b'tRs', build)
    for load in LOADERS.values():
        with pytest.raises(CheckpointError, match='a tensor '):
            load(path)
    shape = number(6) + b'\x85' + number(1) + b'\x85'
    good = written(tmp_path, start + number(0) + shape + b'tRs', build)
    assert load_training_checkpoint(good)['a'].shape == (6,)


def test_a_storage_is_no_longer_than_its_part_of_the_file(tmp_path):
    torch.save({'a': torch.arange(6.0)}, tmp_path / 'x.pth')
    content = (tmp_path / 'x.pth').read_bytes()
    assert content.count(b'K\x06t') == 1
    (tmp_path / 'x.pth').write_bytes(content.replace(b'K\x06t', b'K\xfat'))
    with pytest.raises(CheckpointError, match='24 bytes, not 1000'):
        load_training_checkpoint(tmp_path / 'x.pth')


@pytest.mark.parametrize('name', ['TypedStorage', 'UntypedStorage'])
def test_a_storage_alone_is_no_object(tmp_path, name):
    code = b'}X\1\0\0\0actorch.storage\n' + name.encode() + b'\n\x8a\x05\0\0\0\0\2\x85Rs'
    with pytest.raises(CheckpointError):
        load_training_checkpoint(written(tmp_path, code))


def repacked(content, compression=zipfile.ZIP_STORED, names=lambda name: [name]):
    file = io.BytesIO()
    members = zipfile.ZipFile(io.BytesIO(content))
    with zipfile.ZipFile(file, 'w', compression) as changed:
        for info in members.infolist():
            for name in names(info.filename):
                changed.writestr(name, members.read(info))
    return file.getvalue()


@pytest.mark.parametrize(
    ('compression', 'names', 'message'),
    [
        (zipfile.ZIP_DEFLATED, lambda name: [name], 'compressed members'),
        (zipfile.ZIP_STORED, lambda name: [name, f'other/{name}'], 'several folders'),
        (zipfile.ZIP_STORED, lambda name: [] if name.endswith('data/0') else [name], 'no member'),
    ],
    ids=['deflated', 'two folders', 'a tensor is missing'],
)
def test_archives_are_as_torch_writes_them(tmp_path, compression, names, message):
    path = tmp_path / 'x.pth'
    path.write_bytes(repacked(training_checkpoint(2), compression, names))
    for load in LOADERS.values():
        with pytest.raises(CheckpointError, match=message):
            load(path)
    path.write_bytes(repacked(training_checkpoint(2)))
    assert load_training_checkpoint(path)['meta']['iter'] == 7


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_members_of_one_name_are_refused(tmp_path):
    path = tmp_path / 'x.pth'
    path.write_bytes(repacked(training_checkpoint(2), names=lambda name: [name, name]))
    with pytest.raises(CheckpointError, match='members of the same name'):
        load_training_checkpoint(path)


SMALL = {
    'tuples within tuples': b')' + b'\x85' * 5000,
    'a nested tuple as a key': b'})' + b'\x85' * 5000 + b'Ns',
    'lists within lists': b']' * 5000 + b'a' * 4999,
    'a list in itself': b']\x94h\0a',
    'ten to the hundredth entries': b']\x94'
    + b''.join(b'](' + b'h' + bytes([n]) + (b'h' + bytes([n])) * 9 + b'e\x94' for n in range(60))
    + b'h\x32',
    'an array of six gigabytes': b'\x96' + struct.pack('<Q', 6 * 10**9),
    'a number of megabytes': b'\x8b' + struct.pack('<i', 10**6) + bytes(10**6),
    'an unknown codec': b'c_codecs\nencode\nX\1\0\0\0aX\5\0\0\0rot13\x86R',
    'copies of a mapping': b'ccollections\nOrderedDict\n\x94](' + b'(NNt' * 1000 + b'e\x85\x940('
    + b'h\0h\1R' * 2000 + b'l',
    'copies of bytes': b'X' + struct.pack('<I', 10**4) + b'a' * 10**4
    + b'X\6\0\0\0latin1\x86\x940c_codecs\nencode\n\x940(' + b'h\1h\0R' * 100 + b'l',
}  # fmt: skip


@pytest.mark.parametrize('build', [archive, as_legacy], ids=['zip', 'legacy'])
@pytest.mark.parametrize('case', SMALL)
def test_small_files_cost_little(tmp_path, case, build):
    path = written(tmp_path, SMALL[case], build)
    for load in LOADERS.values():
        with pytest.raises(CheckpointError, match=r'hostile\.pth'):
            load(path)


@pytest.mark.parametrize(('name', 'code'), list(repetitions(50_000)), ids=lambda v: str(v)[:20])
def test_going_over_the_same_again_and_again_takes_no_time(tmp_path, name, code):
    path = written(tmp_path, code)
    start = time.process_time()
    with contextlib.suppress(CheckpointError):
        load_file_safely(path)
    assert time.process_time() - start < 5


@pytest.mark.parametrize('container', [b'}(%su', b'\x8f(%s\x90', b'(%s\x91', b'(%sd'])
def test_keys_cannot_be_chosen_to_collide(tmp_path, container):
    keys = list(colliding_tuples(1030))
    if b'u' not in container and b'd' not in container:
        keys = [key.removesuffix(b'N') for key in keys]
    with pytest.raises(CheckpointError, match='more than 1024 keys that are tuples'):
        load_file_safely(written(tmp_path, container % b''.join(keys)))
    few = load_file_safely(written(tmp_path, container % b''.join(keys[:1024]))).content
    assert len(few) == 1024 and len(set(map(hash, few))) == 1


def test_whole_numbers_are_keys_in_any_number(tmp_path):
    state = {'state': dict.fromkeys(range(5000), 0), 'steps': {2**40: 1, (1, 2): 3, 0.5: 4}}
    torch.save(state, tmp_path / 'x.pth')
    assert load_file_safely(tmp_path / 'x.pth').content == state


@pytest.mark.parametrize(
    'again', [b'_rebuild_tensor_v3\n(%sK\0K\x18\x85K\1\x85\x89Nctorch\nbool\ntR', b'%s']
)
def test_truth_values_are_0_or_1_by_whatever_name(tmp_path, again):
    storage = b'(X\7\0\0\0storagectorch\n%sStorage\nX\1\0\0\x000X\3\0\0\0cpuK\x18tQ'
    plain = b'_rebuild_tensor\n(%sK\0K\x18\x85K\1\x85tR'
    if again == b'%s':  # the same storage, as one of another type
        again = plain % (storage % b'Bool')
    else:
        again = again % (storage % b'Byte')
    code = b''.join(b'ctorch._utils\n' + c for c in (plain % (storage % b'Byte'), again)) + b'\x86'
    with pytest.raises(CheckpointError, match='truth values|unknown type'):
        load_file_safely(written(tmp_path, code))


def test_sets_that_cannot_be_changed_are_read(tmp_path):
    torch.save([frozenset({1, 'a'}), 2], tmp_path / 'x.pth', pickle_protocol=4)
    assert load_file_safely(tmp_path / 'x.pth').content == [frozenset({1, 'a'}), 2]


def test_limits_can_be_lifted(tmp_path, monkeypatch):
    path = written(tmp_path, b'}X\1\0\0\0a' + b')' + b'\x85' * 100 + b's')
    with pytest.raises(CheckpointError, match='within each other'):
        load_file_safely(path)
    monkeypatch.setattr(limits, 'CHECKPOINT_DEPTH', 200)
    assert load_file_safely(path).content.keys() == {'a'}


def test_a_config_object_is_read_no_further_than_its_heads(tmp_path):
    wide = b'(NX\5\0\0\0_valh\0u' * 0
    code = b'cevil\nNode\n\x94)R\x94' + wide
    for number in range(1, 40):
        again = b'h' + bytes([number])
        code += b'h\0)R\x94}X\x08\0\0\0_content](' + again + again + b'esb'
    path = written(tmp_path, b'}X\6\0\0\0config' + code + b'0' * 39 + b's')
    config = load_checkpoint_extras(path)
    with pytest.raises(CheckpointError, match='too many entries'):
        heads_of_release_config(config)


def load_checkpoint_extras(path):
    node = load_file_safely(path).content['config']
    for _ in range(40):
        outer = ForeignObject('evil.Node', ())
        outer.state = {'_content': [node, node]}
        node = outer
    return node


@pytest.mark.parametrize(
    'change',
    [
        dict(meta=[]),
        dict(meta=dict(iter='7', epoch=0)),
        dict(meta=dict(iter=-1)),
        dict(meta=dict(seed='../x')),
        dict(message_hub=[]),
        dict(message_hub=dict(log_scalars=[], runtime_info={}, resumed_keys={})),
        dict(optimizer=3),
        dict(param_schedulers='x'),
        dict(state_dict={'a': 'b'}),
        dict(state_dict={3: torch.ones(1)}),
        dict(data_state=7),
    ],
    ids=str,
)
def test_damaged_parts_are_one_kind_of_error(tmp_path, change):
    torch.save(change, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=r'x\.pth is a damaged training checkpoint'):
        load_training_checkpoint(tmp_path / 'x.pth')


@pytest.mark.parametrize('content', [b'', b'PK\3\4', b'\x80\x02N.', bytes(600), b'\x8a' * 99])
def test_what_is_no_checkpoint_is_one_kind_of_error(tmp_path, content):
    for name in ('x.pth', 'x.safetensors'):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(tmp_path / name)
