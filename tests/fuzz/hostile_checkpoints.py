"""Makes checkpoints that no one should load: odd archives and headers, damaged real ones."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from pgseg_mm import limits

from .mutations import mutate_binary
from .pickle_words import NUMBERS
from .random_pickles import Program, random_pickle


def archive(pickled: bytes, *, storages: int = 2) -> bytes:
    """A file of torch.save with a pickle of our own making."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as members:
        members.writestr('archive/data.pkl', pickled)
        members.writestr('archive/byteorder', 'little')
        for number in range(storages):
            values = np.arange(6, dtype='<f4') * (number == 0)
            members.writestr(f'archive/data/{number}', values.tobytes())
        members.writestr('archive/version', '3\n')
    return file.getvalue()


def legacy(pickled: bytes, keys: list[str], numbers: list[int]) -> bytes:
    """A file of torch.save before its zip format."""
    head = [
        torch.serialization.MAGIC_NUMBER,
        torch.serialization.PROTOCOL_VERSION,
        {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {}},
    ]
    tail = b''.join(struct.pack('<q', number) + bytes(24) for number in numbers)
    return b''.join(pickle.dumps(part, 2) for part in head) + pickled + pickle.dumps(keys, 2) + tail


def training_checkpoint(protocol: int, zipped: bool = True) -> bytes:
    """What a Runner leaves, in small."""
    buffer = HistoryBuffer()
    for number in range(5):
        buffer.update(number / 3)
    weights = OrderedDict(weight=torch.randn(3, 4), flag=torch.ones(2, dtype=torch.bool))
    weights._metadata = OrderedDict({'': {'version': 1}})  # type: ignore[attr-defined]
    content = {
        'meta': {'epoch': 1, 'iter': 7, 'seed': 3, 'cfg': 'model = dict(type="PGSeg")'},
        'state_dict': weights,
        'ema_state_dict': OrderedDict(module=torch.randn(3, 4).t()),
        'message_hub': {
            'log_scalars': OrderedDict({'train/loss': buffer}),
            'runtime_info': OrderedDict(best_score=np.float64(1.5), best_ckpt='/x/best_1.pth'),
            'resumed_keys': OrderedDict({'train/loss': True}),
        },
        'optimizer': {'state': {0: {'exp_avg': torch.randn(3, 4)}}, 'param_groups': [{'lr': 0.1}]},
        'param_schedulers': [{'last_step': 7, '_global_step': 8}],
    }
    file = io.BytesIO()
    torch.save(content, file, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def mutated_training_checkpoint(rng: random.Random) -> bytes:
    """A real checkpoint, damaged as a whole or within its pickle alone."""
    content = training_checkpoint(rng.choice([2, 2, 4, 5]), rng.random() < 0.8)
    if content[:2] != b'PK' or rng.random() < 0.3:
        return mutate_binary(rng, content)
    members = zipfile.ZipFile(io.BytesIO(content))
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as changed:
        for info in members.infolist():
            data = members.read(info)
            if info.filename.endswith('data.pkl'):
                data = mutate_binary(rng, data)
            changed.writestr(info.filename, data)
    return file.getvalue()


def odd_archive(rng: random.Random) -> bytes:
    """A zip archive whose structure is not what it seems."""
    pickled = training_pickle()
    names = ['archive/data.pkl', 'archive/data/0', 'archive/data/1', 'archive/version']
    contents = [pickled, bytes(24), bytes(24), b'3\n']
    if rng.random() < 0.2:
        extra = rng.choice([names[0], 'other/data.pkl', 'data.pkl', '../data.pkl', 'archive/', '/'])
        names.append(extra)
        contents.append(rng.choice([pickled, b'', random_pickle(rng)]))
    if rng.random() < 0.2:
        names[rng.randrange(4)] = rng.choice(['archive/constants.pkl', 'archive/data/../0', '\0'])
    body, directory = bytearray(), bytearray()
    for name, content in zip(names, contents, strict=True):
        deflated = rng.random() < 0.1
        stored = zlib.compress(content)[2:-4] if deflated else content
        sizes = [len(stored), len(content)]
        if rng.random() < 0.1:
            sizes[rng.randrange(2)] = rng.choice([0, 1, 10**6, 2**31, 2**32 - 1])
        offset = len(body)
        if rng.random() < 0.1:
            offset = rng.choice([0, max(offset - 24, 0), offset + 1, 2**31, 2**32 - 1])
        flags = rng.choice([0] * 9 + [1, 8, 0x800])
        method = 8 if deflated else rng.choice([0] * 19 + [8, 12, 14, 99])
        fields = (20, flags, method, 0, 0, zlib.crc32(content), *sizes, len(name.encode()))
        extra = b''
        if rng.random() < 0.1:
            extra = struct.pack('<HHQQQ', 1, 24, *rng.choices([0, 24, 2**40, 2**63], k=3))
        body += b'PK\3\4' + struct.pack('<5H3I2H', *fields, len(extra)) + name.encode() + extra
        body += stored
        directory += b'PK\1\2' + struct.pack('<H', 20) + struct.pack('<5H3I', *fields[:8])
        directory += struct.pack('<5H2I', fields[8], len(extra), 0, 0, 0, 0, offset)
        directory += name.encode() + extra
    numbers = [len(names), len(names), len(directory), len(body)]
    if rng.random() < 0.2:
        numbers[rng.randrange(4)] = rng.choice([0, 1, 65535])
    end = b'PK\5\6' + struct.pack('<4H2IH', 0, 0, *numbers, 0)
    content = bytes(body + directory + end)
    return mutate_binary(rng, content) if rng.random() < 0.2 else content


def training_pickle() -> bytes:
    """The pickle of a real checkpoint."""
    members = zipfile.ZipFile(io.BytesIO(training_checkpoint(2)))
    return members.read('archive/data.pkl')


def odd_legacy(rng: random.Random) -> bytes:
    """A file of before the zip format whose parts do not fit each other."""
    program = Program(rng)
    program.code += pickle.EMPTY_DICT + pickle.MARK
    for name in ('a', 'b'):
        program.text(name)
        program.tensor()
    program.code += pickle.SETITEMS
    keys = rng.choice([['0'], ['0'], ['0', '1'], [], ['0', '0'], [0], '0', [['0']]])
    content = legacy(program.finish(), keys, [rng.choice([6, 6, 6, *NUMBERS[:10]])] * len(keys))
    return mutate_binary(rng, content) if rng.random() < 0.3 else content


def odd_safetensors(rng: random.Random) -> bytes:
    """A safetensors file whose header does not fit what follows."""

    def offsets() -> list:
        return rng.choice([[0, 24], [0, 24], [24, 48], [0, 2**40], [24, 0], [-1, 24], [0.5, 24]])

    header = {
        name: {
            'dtype': rng.choice(['F32', 'F32', 'F64', 'BOOL', 'F8_E4M3', 'F4', 'X', 3]),
            'shape': rng.choice([[6], [2, 3], [2**40, 0], [2**63], [-6], [], ['6'], 6]),
            'data_offsets': offsets(),
        }
        for name in rng.sample(['a', 'b', '__metadata__', 'é' * 50], 2)
    }
    text = json.dumps(header).encode()
    if rng.random() < 0.1:
        text = b'{"a":' + b'[' * 10**5 + b'}'
    if rng.random() < 0.1:
        text = b'{"a":' + b'9' * 10**4 + b'}'
    length = rng.choice([len(text)] * 8 + [0, 10**8, 2**63, len(text) + 1])
    content = struct.pack('<Q', length) + text + bytes(rng.choice([24, 48, 0]))
    return mutate_binary(rng, content) if rng.random() < 0.3 else content


def colliding_tuples(number: int) -> Iterator[bytes]:
    """Keys that all have one hash, each with ``None`` as its value."""
    # see tuplehash in CPython: for any first number there is a second one
    prime_1, prime_2, start, bits = (
        11400714785074694791,
        14029467366897019727,
        2870177450012600261,
        2**64,
    )
    inverse, largest = pow(prime_2, -1, bits), 2**61 - 1
    rng = random.Random(0)
    while number:
        first = rng.randrange(largest)
        lane = (start + first * prime_2) % bits
        lane = ((lane << 31 | lane >> 33) % bits) * prime_1 % bits
        second = (2**40 - lane) * inverse % bits
        if second >= 2**63:
            second -= bits
        if -largest < second < largest and second != -1:
            yield b''.join(b'\x8a\x08' + struct.pack('<q', v) for v in (first, second)) + b'\x86N'
            number -= 1


def repetitions(number: int) -> Iterator[tuple[str, bytes]]:
    """Few bytes that go over many others again and again."""
    text = b'X' + struct.pack('<I', 10**7) + b'a' * 10**7 + b'\x940'
    yield 'long-names', text + b'](' + b'h\x00h\x00\x93' * number + b'e'
    entries = b''.join(b'X\x06\0\0\0%06dh\x00' % i for i in range(number))
    version = b'}X\x07\0\0\0versionK\1s\x940'
    metadata = b'}X\x09\0\0\0_metadata}(' + entries + b'us\x940'
    module = b'ccollections\nOrderedDict\n)R'
    yield 'versions-of-many-modules', version + metadata + module + b'h\x01b' * number
    yield 'one-long-list', b'](' + b'N' * number + b'e\x940](' + b'h\x00' * number + b'e'
    dashes = b'X' + struct.pack('<I', 10**7) + b'latin' + b'-' * (10**7 - 6) + b'1\x940'
    call = b'X\0\0\0\0h\x00\x86\x940cbuiltins\nbytearray\n\x940('
    yield 'a-long-encoding', dashes + call + b'h\x02h\x01R' * number + b'l'


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that ask for a lot."""

    def one(name: str, code: bytes) -> tuple[str, bytes]:
        return f'{name}::.pth', archive(b'\x80\x04' + code + b'.')

    n = limits.CHECKPOINT_OPCODES
    empty_ordered = pickle.GLOBAL + b'collections\nOrderedDict\n'
    yield one('tuples-within-tuples', b')' + b'\x85' * n)
    yield one('a-deep-tuple-as-a-key', b'}' + b')' + b'\x85' * (n - 9) + b'Ns')
    yield one('lists-within-lists', b']' * (n - 3) + b'a' * (n - 4))
    yield one('many-lists', b'(' + b']' * (n - 9) + b'l')
    yield one('many-sets', b'(' + b'\x8f' * (n - 9) + b'l')
    yield one('many-marks', b'(' * (n - 9))
    yield one('too-many-opcodes', b'N' + b'20' * n)
    calls = b'ccollections\nOrderedDict\n\x940)\x940(' + b'h\x00h\x01R' * (n // 3 - 9)
    yield one('many-ordered-dicts', calls + b'l')
    yield one('many-placeholders', b'cevil\nfunction\n\x940(' + b'h\x00)R' * (n // 3 - 9) + b'l')
    yield one('many-names', b'(' + b''.join(b'cm\n%d\n' % i for i in range(n // 2)) + b'l')
    pid = b'(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\3\0\0\0cpuK\x06tQ\x940'
    args = b'(h\x00K\x00K\x02K\x03\x86K\x03K\x01\x86t\x940ctorch._utils\n_rebuild_tensor\n\x940('
    yield one('many-tensors', pid + args + b'h\x02h\x01R' * (n // 3 - 20) + b'l')
    laughs = b']\x940' + b''.join(
        b'](' + b'h' * 0 + (b'h' + bytes([i])) * 10 + b'e\x940' for i in range(100)
    )
    yield one('billion-laughs', laughs + b'h\x64')
    entries = b'](' + b'(NNt' * 10**5 + b'e\x940(h\x00t\x940' + empty_ordered + b'\x940('
    yield one('copies-of-a-mapping', entries + b'h\x02h\x01R' * 10**5 + b'l')
    text = b'X' + struct.pack('<I', 10**7) + b'a' * 10**7 + b'\x940'
    text += b'h\x00X\6\0\0\0latin1\x86\x940c_codecs\nencode\n\x940('
    yield one('copies-of-bytes', text + b'h\x02h\x01R' * 10**4 + b'l')
    collide = b''.join(
        b'\x8a\x0a' + pickle.encode_long(i * (2**61 - 1)).ljust(10, b'\0') + b'N'
        for i in range(1, 10**5)
    )
    yield one('keys-that-collide', b'}(' + collide + b'u')
    yield one('tuples-that-collide', b'}(' + b''.join(colliding_tuples(10**5)) + b'u')
    yield from (one(name, code) for name, code in repetitions(n // 4))
    yield one('six-gigabytes', pickle.BYTEARRAY8 + struct.pack('<Q', 6 * 10**9))
    yield one('a-frame-of-terabytes', pickle.FRAME + struct.pack('<Q', 2**42) + b'N')
    yield one(
        'one-string', b'X' + struct.pack('<I', 10**8) + b'a' * (10**8 - 4) + '\U0001f600'.encode()
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as file:
        file.writestr('archive/data.pkl', b'\x80\x02N.')
        file.writestr('archive/data/0', bytes(10**9))
    yield 'deflated::.pth', buffer.getvalue()
    declared = pid.replace(b'K\x06', b'\x8a\x05\0\0\0\0\x02')
    yield one('storage-longer-than-its-member', declared + args + b'h\x02h\x01Rl')
    yield 'legacy-of-gigabytes::.pth', legacy(b'\x80\x02' + declared + b'N.', ['0'], [2**33])
    shared = b'C' + bytes([16]) + bytes(16) + b'\x940'
    yield one('shared-bytes', shared + b'N')
