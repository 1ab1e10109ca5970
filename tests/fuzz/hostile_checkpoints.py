"""Makes checkpoints that no one should load: random pickles, odd archives, damaged real ones."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from pgseg_mm import limits
from pgseg_mm.serialization import allowed_names, known_objects

LISTED = [*allowed_names.NAMES, *(tuple(n.rsplit('.', 1)) for n in known_objects.KNOWN_NAMES)]
OTHERS = [
    tuple(name.rsplit('.', 1))
    for name in [
        'os.system',
        'posix.system',
        'os.remove',
        'shutil.rmtree',
        'subprocess.Popen',
        'builtins.eval',
        'builtins.exec',
        'builtins.getattr',
        '__builtin__.getattr',
        'builtins.type',
        'builtins.object',
        'builtins.open',
        'builtins.__import__',
        'builtins.map',
        'builtins.slice',
        'builtins.bytearray',
        'builtins.list',
        'functools.partial',
        'operator.attrgetter',
        'operator.methodcaller',
        'collections.defaultdict',
        'collections.deque',
        'copyreg._reconstructor',
        'copyreg.__newobj__',
        'importlib.import_module',
        'pathlib.Path',
        'pathlib.Path.unlink',
        'io.FileIO',
        'ctypes.string_at',
        'ctypes.CDLL',
        'antigravity.fly',
        'this.s',
        'turtle.Turtle',
        'xmlrpc.client.ServerProxy',
        'socket.socket',
        'tarfile.open',
        'torch.load',
        'torch.hub.load',
        'torch.jit.load',
        'torch.Tensor',
        'torch.FloatTensor',
        'torch.empty',
        'torch.storage._load_from_bytes',
        'torch.storage.TypedStorage',
        'torch._utils._rebuild_qtensor',
        'torch._utils._rebuild_sparse_tensor',
        'torch._utils._rebuild_meta_tensor_no_storage',
        'torch._utils._rebuild_device_tensor_from_numpy',
        'torch._utils._rebuild_parameter_with_state',
        'torch._tensor._rebuild_from_type_v2',
        'torch.nn.parameter.Parameter',
        'torch.serialization._get_layout',
        'numpy.dtypes.Float64DType',
        'numpy.dtypes.ObjectDType',
        'numpy.load',
        'numpy.memmap',
        'numpy.fromfile',
        'numpy.core.multiarray.fromfile',
        'numpy.lib.npyio.load',
        'mmengine.config.Config.fromfile',
        'mmengine.config.ConfigDict',
        'mmengine.logging.history_buffer.HistoryBuffer.min',
        'mmengine.logging.history_buffer.HistoryBuffer.__init__',
        'mmengine.registry.Registry.build',
        'omegaconf.dictconfig.DictConfig',
        'evil.function',
        'argparse.Namespace',
    ]
]
WORDS = ['', 'b', 'f8', 'O', 'V8', 'U3', '<', '|', 'storage', 'module', '0', '1', 'cpu', 'cuda:0']
WORDS += ['meta', 'latin1', 'rot13', 'state_dict', 'meta', 'message_hub', 'config', 'model', 'cfg']
WORDS += [
    '_metadata',
    '__class__',
    '__dict__',
    '__reduce__',
    '_content',
    '../../etc/passwd',
    '\U0001f600',
]
NUMBERS = [
    0,
    1,
    2,
    3,
    8,
    255,
    256,
    65535,
    2**31 - 1,
    2**31,
    2**40,
    2**62,
    2**63,
    2**64,
    -1,
    -(2**40),
]


class Program:
    """A pickle program, written opcode by opcode.

    Args:
        rng: Source of all that is random.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.code = bytearray(b'\x80' + bytes([rng.choice([2, 2, 4, 5])]))
        self.memo = 0

    def number(self, value: int) -> None:
        """Push a number, by any of the opcodes for it."""
        if 0 <= value < 256:
            self.code += pickle.BININT1 + bytes([value])
        elif -(2**31) <= value < 2**31:
            self.code += pickle.BININT + struct.pack('<i', value)
        else:
            data = pickle.encode_long(value)
            self.code += pickle.LONG1 + bytes([len(data)]) + data

    def text(self, value: str) -> None:
        """Push a string."""
        data = value.encode('utf-8', 'surrogatepass')
        self.code += pickle.BINUNICODE + struct.pack('<I', len(data)) + data

    def bytes(self, value: bytes) -> None:
        """Push bytes."""
        self.code += pickle.BINBYTES + struct.pack('<I', len(value)) + value

    def name(self, module: str, name: str) -> None:
        """Push what a name stands for."""
        if self.rng.random() < 0.5:
            self.code += pickle.GLOBAL + f'{module}\n{name}\n'.encode()
        else:
            self.text(module)
            self.text(name)
            self.code += pickle.STACK_GLOBAL

    def tuple(self, *pushes: Callable[[], None]) -> None:
        """Push a tuple of what is pushed."""
        self.code += pickle.MARK
        for push in pushes:
            push()
        self.code += pickle.TUPLE

    def scalar(self) -> None:
        """Push a value that is no container."""
        rng = self.rng
        kind = rng.randrange(6)
        if kind == 0:
            self.number(rng.choice(NUMBERS))
        elif kind == 1:
            self.text(rng.choice(WORDS))
        elif kind == 2:
            self.bytes(rng.randbytes(rng.choice([0, 1, 8, 16, 24])))
        elif kind == 3:
            self.code += rng.choice([pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE])
        elif kind == 4:
            self.code += pickle.BINFLOAT + rng.randbytes(8)
        else:
            self.name(*rng.choice(LISTED if rng.random() < 0.6 else OTHERS))

    def maybe(self, value: int) -> Callable[[], None]:
        """Push a number, now and then another one or something else."""
        odds = self.rng.random()
        if odds < 0.8:
            return lambda: self.number(value)
        return (lambda: self.number(self.rng.choice(NUMBERS))) if odds < 0.95 else self.scalar

    def storage(self) -> None:
        """Push a storage, mostly one that is there."""
        rng = self.rng
        kinds = ['FloatStorage', 'FloatStorage', 'HalfStorage', 'BoolStorage', 'QUInt8Storage']
        self.tuple(
            lambda: self.text('storage' if rng.random() < 0.95 else rng.choice(WORDS)),
            lambda: self.name('torch', rng.choice(kinds)),
            lambda: self.text(rng.choice(['0', '0', '0', '1', '9', '../0'])),
            lambda: self.text(rng.choice(['cpu', 'cpu', 'cpu', 'cuda:0', 'meta', 'x' * 9])),
            self.maybe(6),
        )
        self.code += pickle.BINPERSID

    def tensor(self) -> None:
        """Push a tensor, mostly one that fits."""
        version = self.rng.choice(['', '_v2', '_v2', '_v3'])
        self.name('torch._utils', f'_rebuild_tensor{version}')
        rest: list[Callable[[], None]] = []
        if version:
            rest = [lambda: self.append(pickle.NEWFALSE), self.hooks]
        if version == '_v3':
            rest.append(lambda: self.name('torch', 'float32'))
        self.tuple(
            self.storage if self.rng.random() < 0.9 else self.scalar,
            self.maybe(0),
            lambda: self.tuple(self.maybe(2), self.maybe(3)),
            lambda: self.tuple(self.maybe(3), self.maybe(1)),
            *rest,
        )
        self.code += pickle.REDUCE

    def hooks(self) -> None:
        """Push the hooks of a tensor, mostly none."""
        if self.rng.random() < 0.8:
            self.name('collections', 'OrderedDict')
            self.code += pickle.EMPTY_TUPLE + pickle.REDUCE
        else:
            self.value(2)

    def append(self, code: bytes) -> None:
        """Write an opcode."""
        self.code += code

    def dtype(self) -> None:
        """Push a NumPy type, mostly of numbers."""
        rng = self.rng
        self.name('numpy', 'dtype')
        codes = ['f8', 'f8', 'i8', 'O', 'V16', 'U4', 'b1', 'O8', '2O', 'f8,O']
        self.tuple(
            lambda: self.text(rng.choice(codes)),
            lambda: self.append(pickle.NEWFALSE),
            lambda: self.append(pickle.NEWTRUE),
        )
        self.code += pickle.REDUCE
        if rng.random() < 0.9:
            fields = [self.scalar if rng.random() < 0.05 else self.none for _ in range(3)]
            if rng.random() < 0.1:  # a sub-array, of objects
                fields[0] = lambda: self.tuple(self.dtype, lambda: self.tuple(self.maybe(3)))
            self.tuple(
                self.maybe(3),
                lambda: self.text(rng.choice('<<<>|=')),
                *fields,
                self.maybe(-1),
                self.maybe(-1),
                self.maybe(0),
            )
            self.code += pickle.BUILD

    def none(self) -> None:
        """Push nothing."""
        self.code += pickle.NONE

    def array(self) -> None:
        """Push a NumPy array, or a call of its class."""
        rng = self.rng
        core = rng.choice(['numpy.core', 'numpy._core'])
        content = rng.choice([16, 16, 16, 8, 0, 24])
        if rng.random() < 0.1:
            self.name('numpy', 'ndarray')
            self.tuple(
                lambda: self.tuple(self.maybe(2)), self.dtype, lambda: self.bytes(rng.randbytes(16))
            )
            self.code += rng.choice([pickle.REDUCE, pickle.NEWOBJ])
            return
        self.name(f'{core}.multiarray', '_reconstruct')
        self.tuple(
            lambda: self.name('numpy', 'ndarray'),
            lambda: self.tuple(self.maybe(0)),
            lambda: self.bytes(b'b'),
        )
        self.code += pickle.REDUCE
        self.tuple(
            self.maybe(1),
            lambda: self.tuple(self.maybe(2)),
            self.dtype,
            lambda: self.append(pickle.NEWFALSE),
            lambda: self.bytes(rng.randbytes(content)),
        )
        self.code += pickle.BUILD

    def buffer(self) -> None:
        """Push a history buffer, mostly one that is whole."""
        rng = self.rng
        self.name('mmengine.logging.history_buffer', 'HistoryBuffer')
        self.code += pickle.EMPTY_TUPLE + pickle.NEWOBJ + pickle.EMPTY_DICT + pickle.MARK
        for name in ('max_length', '_log_history', '_count_history', 'statistics_methods'):
            if rng.random() < 0.05:
                continue
            self.text(name)
            if name == 'max_length':
                self.maybe(10)()
            elif name == 'statistics_methods':
                self.value(1)
            else:
                self.array()
        self.code += pickle.SETITEMS + pickle.BUILD

    def value(self, depth: int) -> None:
        """Push anything."""
        rng = self.rng
        makers = [self.scalar, self.tensor, self.array, self.buffer, self.storage, self.dtype]
        if depth and rng.random() < 0.7:
            makers = [self.container, self.call, self.remembered, *makers]
        maker = rng.choice(makers)
        if maker in (self.container, self.call):
            maker(depth - 1)  # type: ignore[call-arg]
        else:
            maker()
        if rng.random() < 0.2:
            self.code += pickle.MEMOIZE
            self.memo += 1
        if rng.random() < 0.03:
            self.code += self.noise()

    def remembered(self) -> None:
        """Push what was pushed before."""
        if self.memo:
            self.code += pickle.BINGET + bytes([self.rng.randrange(min(self.memo, 256))])
        else:
            self.scalar()

    def container(self, depth: int) -> None:
        """Push a list, dict, set or tuple, or fill one."""
        rng = self.rng
        start, end = rng.choice(
            [
                (pickle.EMPTY_LIST + pickle.MARK, pickle.APPENDS),
                (pickle.EMPTY_DICT + pickle.MARK, pickle.SETITEMS),
                (pickle.EMPTY_SET + pickle.MARK, pickle.ADDITEMS),
                (pickle.MARK, pickle.TUPLE),
                (pickle.MARK, pickle.LIST),
                (pickle.MARK, pickle.DICT),
                (pickle.MARK, pickle.FROZENSET),
            ]
        )
        self.code += start
        pairs = end in (pickle.SETITEMS, pickle.DICT)
        for number in range(2 * rng.randrange(3)):
            if pairs and number % 2 == 0 and rng.random() < 0.9:
                self.text(rng.choice(WORDS))
            else:
                self.value(depth)
        self.code += end

    def call(self, depth: int) -> None:
        """Push the result of a call, and perhaps set its state."""
        rng = self.rng
        arguments = [lambda: self.value(depth)] * rng.randrange(4)
        kind = rng.randrange(5)
        if kind == 0:
            module, name = rng.choice(OTHERS + LISTED)
            self.code += pickle.MARK
            for push in arguments:
                push()
            self.code += pickle.INST + f'{module}\n{name}\n'.encode()
        elif kind == 1:
            self.code += pickle.MARK
            self.name(*rng.choice(OTHERS + LISTED))
            for push in arguments:
                push()
            self.code += pickle.OBJ
        else:
            self.name(*rng.choice(OTHERS + LISTED))
            self.tuple(*arguments)
            self.code += rng.choice([pickle.REDUCE, pickle.REDUCE, pickle.NEWOBJ])
        if rng.random() < 0.4:
            self.value(depth)
            self.code += rng.choice([pickle.BUILD, pickle.APPEND, pickle.BINPERSID])

    def noise(self) -> bytes:
        """An opcode with whatever it takes, where it does not belong."""
        rng = self.rng
        size = struct.pack('<Q', rng.choice([0, 3, 2**31, 6 * 10**9, 2**40, 2**63]))
        return rng.choice(
            [
                pickle.DUP,
                pickle.POP,
                pickle.POP_MARK,
                pickle.MARK,
                pickle.EXT1 + b'\x01',
                pickle.EXT4 + b'\1\0\0\0',
                pickle.PERSID + b'x\n',
                pickle.GET + b'7\n',
                pickle.PUT + b'-1\n',
                pickle.LONG_BINPUT + b'\xff\xff\xff\x7f',
                pickle.LONG4 + size[:4],
                pickle.LONG + b'9' * 5000 + b'L\n',
                pickle.INT + b'1_0\n',
                pickle.UNICODE + b'\\ud800\n',
                pickle.STRING + b"'\\x41'\n",
                pickle.BYTEARRAY8 + size,
                pickle.BINBYTES8 + size,
                pickle.BINUNICODE8 + size,
                pickle.FRAME + size,
                pickle.NEXT_BUFFER,
                pickle.READONLY_BUFFER,
                pickle.NEWOBJ_EX,
                rng.randbytes(2),
            ]
        )

    def finish(self) -> bytes:
        """The program."""
        return bytes(self.code + pickle.STOP)


def random_pickle(rng: random.Random) -> bytes:
    """A pickle of a checkpoint-like mapping, of anything at all, or of noise."""
    program = Program(rng)
    if rng.random() < 0.7:
        program.code += pickle.EMPTY_DICT + pickle.MARK
        for name in rng.sample(['state_dict', 'meta', 'message_hub', 'config', 'optimizer'], 3):
            program.text(name)
            program.value(3)
        program.code += pickle.SETITEMS
    else:
        program.value(4)
    code = program.finish()
    if rng.random() < 0.1:
        code = mutate(rng, code)
    return code


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


def mutate(rng: random.Random, content: bytes) -> bytes:
    """Change, remove, repeat or add some bytes."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            data[at : at + 1] = rng.randbytes(1)
        elif kind == 1:
            del data[at : at + rng.randrange(1, 9)]
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 3:
            start = rng.randrange(len(data) + 1)
            data[at:at] = data[start : start + rng.randrange(1, 64)]
        else:
            data[at : at + 8] = struct.pack(
                '<Q', rng.choice([0, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
            )
    if rng.random() < 0.1:
        del data[rng.randrange(len(data) + 1) :]
    return bytes(data)


def mutated_training_checkpoint(rng: random.Random) -> bytes:
    """A real checkpoint, damaged as a whole or within its pickle alone."""
    content = training_checkpoint(rng.choice([2, 2, 4, 5]), rng.random() < 0.8)
    if content[:2] != b'PK' or rng.random() < 0.3:
        return mutate(rng, content)
    members = zipfile.ZipFile(io.BytesIO(content))
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as changed:
        for info in members.infolist():
            data = members.read(info)
            if info.filename.endswith('data.pkl'):
                data = mutate(rng, data)
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
    return mutate(rng, content) if rng.random() < 0.2 else content


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
    return mutate(rng, content) if rng.random() < 0.3 else content


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
    return mutate(rng, content) if rng.random() < 0.3 else content


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
