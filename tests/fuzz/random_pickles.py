"""Makes pickles at random, of opcodes that mean something and of noise."""

from __future__ import annotations

import pickle
import random
import struct
from collections.abc import Callable

from .mutations import mutate_binary
from .pickle_words import LISTED, NUMBERS, OTHERS, WORDS


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
        code = mutate_binary(rng, code)
    return code
