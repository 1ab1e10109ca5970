"""Reads pickles of unknown origin without running anything that they name."""

from __future__ import annotations

import codecs
import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from pgseg_mm import limits


class ForeignObject:
    """Stands for a class, a function or an object that was not loaded.

    What the pickle held for it is kept as plain data, and nothing is done with it.

    Args:
        name: Full name of the class or function, such as ``omegaconf.dictconfig.DictConfig``.
        args: Arguments that it would have been called with; ``None`` for the class itself.
    """

    def __init__(self, name: str, args: tuple | None = None) -> None:
        self.name = name
        self.args = args
        self.state: Any = None
        """What ``__setstate__`` would have been given."""
        self.entries: list = []
        """Elements, or pairs of key and value, that would have been put into it."""

    def __repr__(self) -> str:
        return f'<{self.name}, not loaded>'


class StorageKind:
    """Stands for a type of storage, such as ``torch.FloatStorage``.

    Args:
        dtype: Type of its elements.
    """

    __slots__ = ('dtype',)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class StoredTensor(ForeignObject):
    """Stands for a storage, from which tensors are made, and for nothing else.

    Args:
        storage: Its bytes.
        dtype: Type of its elements.
        numel: Their number.
    """

    def __init__(self, storage: torch.UntypedStorage, dtype: torch.dtype, numel: int) -> None:
        super().__init__('torch.storage.TypedStorage')
        self.storage = storage
        self.dtype = dtype
        self.numel = numel


def _refuse(text: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(text)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _make_tensor(
    stored: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """A tensor of stored numbers, which must be there."""
    if type(stored) is not StoredTensor:
        raise _refuse('a tensor without a storage')
    if dtype is None:
        dtype, numel = stored.dtype, stored.numel
    else:
        numel = stored.storage.nbytes() // dtype.itemsize
    if type(size) not in (tuple, torch.Size) or type(stride) not in (tuple, torch.Size):
        raise _refuse('a tensor whose shape is no tuple')
    if len(size) != len(stride) or len(size) > 64 or not _is_count(offset):
        raise _refuse('a tensor whose shape, strides and offset do not fit each other')
    if not all(map(_is_count, (*size, *stride))):
        raise _refuse('a tensor of a shape that is not of whole numbers')
    elements, last = 1, offset
    for length, step in zip(size, stride, strict=True):
        elements *= length
        last += (length - 1) * step
    if elements > max(numel, limits.CHECKPOINT_REPEATED_ELEMENTS):
        raise _refuse(f'a tensor of {elements} elements of which {numel} are stored')
    if (elements and last >= numel) or (not elements and offset > numel):
        raise _refuse(f'a tensor that ends behind the {numel} elements that are stored')
    empty = torch.empty((0,), dtype=dtype, device=stored.storage.device)
    return empty.set_(stored.storage, offset, tuple(size), tuple(stride))


def _finish_tensor(
    tensor: torch.Tensor, requires_grad: Any, hooks: Any, metadata: Any
) -> torch.Tensor:
    if type(requires_grad) is not bool or hooks or (hooks is not None and not _is_mapping(hooks)):
        raise _refuse('a tensor with hooks')
    if requires_grad:
        tensor.requires_grad_()
    if metadata:
        if not (_is_mapping(metadata) and tensor.is_complex()) or any(
            key not in ('conj', 'neg') or type(value) is not bool for key, value in metadata.items()
        ):
            raise _refuse('a tensor with unknown flags')
        torch._utils.set_tensor_metadata(tensor, dict(metadata))
    return tensor


def _is_mapping(value: Any) -> bool:
    return type(value) in (dict, OrderedDict)


def _rebuild_tensor(stored: Any, offset: Any, size: Any, stride: Any) -> torch.Tensor:
    return _make_tensor(stored, offset, size, stride)


def _rebuild_tensor_v2(
    stored: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    metadata: Any = None,
) -> torch.Tensor:
    tensor = _make_tensor(stored, offset, size, stride)
    return _finish_tensor(tensor, requires_grad, hooks, metadata)


def _rebuild_tensor_v3(
    stored: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> torch.Tensor:
    if type(dtype) is not torch.dtype or dtype not in _DTYPES.values() or dtype is torch.bool:
        raise _refuse('a tensor of an unknown type')
    tensor = _make_tensor(stored, offset, size, stride, dtype)
    return _finish_tensor(tensor, requires_grad, hooks, metadata)


def _rebuild_parameter(data: Any, requires_grad: Any, hooks: Any) -> torch.nn.Parameter:
    if type(data) is not torch.Tensor or type(requires_grad) is not bool or hooks:
        raise _refuse('a parameter that is made of no tensor, or with hooks')
    return torch.nn.Parameter(data, requires_grad)


def _no_bytes() -> bytes:
    """How protocol 2 stores bytes that are empty."""
    return b''


def _pairs(*args: Any) -> OrderedDict:
    if len(args) > 1 or (args and type(args[0]) is not list):
        raise _refuse('arguments of an OrderedDict that are no list')
    result: OrderedDict = OrderedDict()
    for pair in args[0] if args else ():
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise _refuse('an entry of an OrderedDict that is no pair')
        result[_check_key(pair[0], len(result))] = pair[1]
    return result


def _set(*args: Any) -> set:
    if len(args) > 1 or (args and type(args[0]) is not list):
        raise _refuse('arguments of a set that are no list')
    return _set_of(args[0] if args else [])


def _counter(*args: Any) -> Counter:
    if len(args) > 1 or (args and type(args[0]) is not dict):
        raise _refuse('arguments of a Counter that are no dict')
    return Counter(*args)


def _size(*args: Any) -> torch.Size:
    if len(args) != 1 or type(args[0]) is not tuple or not all(map(_is_count, args[0])):
        raise _refuse('a torch.Size that is not of whole numbers')
    return torch.Size(args[0])


def _device(*args: Any) -> torch.device:
    if not 1 <= len(args) <= 2 or type(args[0]) is not str or len(args[0]) > 32:
        raise _refuse('a torch.device without a name')
    if len(args) == 2 and not (_is_count(args[1]) and args[1] < 128):
        raise _refuse('a torch.device with an odd index')
    return torch.device(*args)


def _complex(*args: Any) -> complex:
    if len(args) != 2 or not all(type(value) in (int, float) for value in args):
        raise _refuse('a complex number that is not of two numbers')
    return complex(*args)


_PLAIN_KEYS = (str, bytes, bool, float, type(None), ForeignObject, torch.dtype, torch.device)


def _set_of(items: list) -> set:
    result: set = set()
    for item in items:
        result.add(_check_key(item, len(result)))
    return result


def _check_key(key: Any, held: int) -> Any:
    """A key whose hash is quick and does not recurse, and collides with few others.

    Args:
        key: The key.
        held: Keys that are there already.
    """
    kind = type(key)
    if held >= limits.CHECKPOINT_CHOSEN_KEYS and (
        kind in (tuple, float) or (kind is int and not 0 <= key < limits.CHECKPOINT_OPCODES)
    ):
        # of these, a file can choose as many with the same hash as it likes
        raise _refuse(f'more than {held} keys that are tuples, fractions or large numbers')
    if kind is tuple:
        if len(key) > limits.CHECKPOINT_KEY_LENGTH or any(type(part) is tuple for part in key):
            raise _refuse('a long or nested tuple as a key')
        for part in key:
            _check_key(part, 0)
    elif kind is int:
        if not -(2**63) <= key < 2**64:
            raise _refuse('a large number as a key')
    elif kind not in _PLAIN_KEYS:
        raise _refuse(f'a key of type {kind.__name__}')
    return key


_DTYPES = {
    name: value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype) and not name.startswith(('q', 'bits'))
}
_STORAGES = {
    name: StorageKind(dtype)
    for dtype, name in torch.storage._dtype_to_storage_type_map().items()
    if dtype in _DTYPES.values()
}
_MAKERS: dict[tuple[str, str], Callable] = {
    ('collections', 'OrderedDict'): _pairs,
    ('collections', 'Counter'): _counter,
    ('torch', 'Size'): _size,
    ('torch', 'device'): _device,
    ('torch._utils', '_rebuild_tensor'): _rebuild_tensor,
    ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor_v2,
    ('torch._utils', '_rebuild_tensor_v3'): _rebuild_tensor_v3,
    ('torch._utils', '_rebuild_parameter'): _rebuild_parameter,
    **{
        (module, name): maker
        for module in ('builtins', '__builtin__')
        for name, maker in (('set', _set), ('complex', _complex), ('bytes', _no_bytes))
    },
}
_MAKER_IDS = frozenset(map(id, _MAKERS.values()))
_ENCODE = ForeignObject('_codecs.encode')
_BYTEARRAY = ForeignObject('builtins.bytearray')
_NAMES: dict[tuple[str, str], Any] = {
    **_MAKERS,
    **{('torch', name): dtype for name, dtype in _DTYPES.items()},
    **{('torch', name): kind for name, kind in _STORAGES.items()},
    ('torch.storage', 'UntypedStorage'): StorageKind(torch.uint8),
    ('_codecs', 'encode'): _ENCODE,
    ('builtins', 'bytearray'): _BYTEARRAY,
    ('__builtin__', 'bytearray'): _BYTEARRAY,
}


class InertUnpickler(pickle._Unpickler):
    """Rebuilds tensors and plain containers; everything else becomes a :class:`ForeignObject`.

    Names are looked up in a fixed table, never imported, and each entry of that table that can be
    called is a function of this module that looks at its arguments first. Whatever else a pickle
    can do to an object (call it, set its state, fill it) is recorded in foreign objects, or
    refused. Python's own implementation is extended because the one in C does these things itself.

    Args:
        file: Has ``read`` and ``readline``.
        load_storage: Makes a :class:`StoredTensor` of what follows the word ``storage`` in a
            persistent id; without it there are no tensors.
        size: Bytes that the pickle may have, which bounds what it declares.

    Raises:
        pickle.UnpicklingError: Of what is refused; damaged pickles fail in other ways, too.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def __init__(
        self, file: Any, load_storage: Callable[[tuple], StoredTensor] | None = None, size: int = 0
    ) -> None:
        super().__init__(file, fix_imports=False, encoding='utf-8')
        self.foreign: set[str] = set()
        """Names of everything that was replaced by a placeholder."""
        self._load_storage = load_storage
        self._size = size
        self._copied_bytes, self._copied_entries = size, limits.CHECKPOINT_OPCODES

    def load(self) -> Any:
        """Read one pickle."""
        self._unframer = pickle._Unframer(self._file_read, self._file_readline)  # type: ignore[attr-defined]
        read = self.read = self._unframer.read
        self.readinto, self.readline = self._unframer.readinto, self._unframer.readline
        self.metastack: list[list] = []
        self.stack = []
        self.append = self.stack.append
        self.proto = 0
        dispatch = self.dispatch
        try:
            for _ in range(limits.CHECKPOINT_OPCODES):
                key = read(1)
                if not key:
                    raise EOFError('it ends within its pickle')
                dispatch[key[0]](self)
        except pickle._Stop as stop:  # type: ignore[attr-defined]
            return stop.value
        raise _refuse(f'a pickle of more than {limits.CHECKPOINT_OPCODES} opcodes')

    def find_class(self, module: str, name: str) -> Any:
        """The entry of the table, or a placeholder."""
        found = _NAMES.get((module, name))
        if found is not None:
            return found
        full = f'{module[:100]}.{name[:100]}'
        self.foreign.add(full)
        return ForeignObject(full)

    def get_extension(self, code: int) -> None:
        """Refuse names that are registered by number in the running process."""
        raise _refuse('an extension code')

    def _count_copy(self, size: int = 0, entries: int = 0) -> None:
        """Bound what is made of memoized values, of which a pickle may make any number."""
        self._copied_bytes -= size
        self._copied_entries -= entries
        if self._copied_bytes < 0 or self._copied_entries < 0:
            raise _refuse('copies of the same values again and again')

    def _call(self, func: Any, args: Any) -> Any:
        if type(args) is not tuple:
            raise _refuse('arguments that are no tuple')
        if func is _ENCODE:
            return self._encode(*args)
        if func is _BYTEARRAY:
            return bytearray(self._bytes_of(*args))
        if type(func) is ForeignObject:
            return ForeignObject(func.name, args)
        if id(func) not in _MAKER_IDS:
            raise _refuse(f'a call of {type(func).__name__}')
        if args and type(args[0]) in (list, dict, tuple):
            self._count_copy(entries=len(args[0]))
        return func(*args)

    def _encode(self, text: Any, encoding: Any) -> bytes:
        """How protocol 2 stores bytes; other encodings would look up codecs by name."""
        if type(text) is not str or encoding != 'latin1':
            raise _refuse('text in an encoding that is not expected')
        self._count_copy(len(text))
        return text.encode('latin1')

    def _bytes_of(self, content: Any = b'', encoding: Any = 'latin1') -> bytes:
        if type(content) is bytes:
            self._count_copy(len(content))
            return content
        return self._encode(content, 'latin1' if encoding == 'latin-1' else encoding)

    def _fill(self, target: Any, items: list) -> None:
        if type(target) is ForeignObject and target.args is not None:
            target.entries += items
        elif type(target) is list:
            target += items
        elif type(target) is set:
            for item in items:
                target.add(_check_key(item, len(target)))
        else:
            raise _refuse(f'elements for an object of {type(target)}')

    def _set_items(self, target: Any, flat: list) -> None:
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        if type(target) is ForeignObject and target.args is not None:
            target.entries += pairs
        elif type(target) in (dict, OrderedDict, Counter):
            for key, value in pairs:
                target[_check_key(key, len(target))] = value
        else:
            raise _refuse(f'keys and values for an object of {type(target)}')

    def _load_reduce(self) -> None:
        args, func = self.stack.pop(), self.stack.pop()
        self.append(self._call(func, args))

    def _load_newobj_ex(self) -> None:
        kwargs, args, cls = self.stack.pop(), self.stack.pop(), self.stack.pop()
        if kwargs and type(cls) is not ForeignObject:
            raise _refuse('a call with keywords')
        self.append(self._call(cls, args))

    def _load_inst(self) -> None:
        module, name = (self.readline()[:-1].decode('ascii') for _ in range(2))
        args = tuple(self._pop_mark())
        self.append(self._call(self.find_class(module, name), args))

    def _load_obj(self) -> None:
        cls, *args = self._pop_mark()
        self.append(self._call(cls, tuple(args)))

    def _load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is ForeignObject and target.args is not None:
            target.state = state
        elif type(target) is OrderedDict:
            # the version of each module, by which load_state_dict converts what is older
            if _is_mapping(state) and '_metadata' in state:
                if _is_mapping(state['_metadata']):
                    self._count_copy(entries=len(state['_metadata']))
                target._metadata = _versions(state['_metadata'])  # type: ignore[attr-defined]
        else:
            raise _refuse(f'a state for an object of {type(target)}')

    def _load_persid(self) -> None:
        raise _refuse('a persistent id written as text')

    def _load_binpersid(self) -> None:
        pid = self.stack.pop()
        if self._load_storage is None or type(pid) is not tuple or not pid:
            raise _refuse('a persistent id that is no storage of a tensor')
        if type(pid[0]) is not str or pid[0] != 'storage':
            raise _refuse('a persistent id of another kind than a storage')
        self.append(self._load_storage(pid[1:]))

    def _load_append(self) -> None:
        value = self.stack.pop()
        self._fill(self.stack[-1], [value])

    def _load_appends(self) -> None:
        items = self._pop_mark()
        self._fill(self.stack[-1], items)

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items(self.stack[-1], [key, value])

    def _load_setitems(self) -> None:
        items = self._pop_mark()
        self._set_items(self.stack[-1], items)

    def _load_dict(self) -> None:
        items, target = self._pop_mark(), {}  # type: ignore[var-annotated]
        self._set_items(target, items)
        self.append(target)

    def _load_frozenset(self) -> None:
        items = self._pop_mark()
        self.append(frozenset(_set_of(items)))

    def _load_unicode(self) -> None:
        # by its name, the codec would be imported
        self.append(codecs.raw_unicode_escape_decode(self.readline()[:-1])[0])

    def _load_long4(self) -> None:
        raise _refuse('a number of more than 255 bytes')

    def _load_bytearray8(self) -> None:
        length = int.from_bytes(self.read(8), 'little')
        if length > self._size:
            raise _refuse(f'an array of {length} bytes')
        self.append(bytearray(self.read(length)))

    def _pop_mark(self) -> list:
        return self.pop_mark()  # type: ignore[attr-defined]

    dispatch.update(
        {
            pickle.REDUCE[0]: _load_reduce,
            pickle.NEWOBJ[0]: _load_reduce,
            pickle.NEWOBJ_EX[0]: _load_newobj_ex,
            pickle.INST[0]: _load_inst,
            pickle.OBJ[0]: _load_obj,
            pickle.BUILD[0]: _load_build,
            pickle.PERSID[0]: _load_persid,
            pickle.BINPERSID[0]: _load_binpersid,
            pickle.APPEND[0]: _load_append,
            pickle.APPENDS[0]: _load_appends,
            pickle.ADDITEMS[0]: _load_appends,
            pickle.SETITEM[0]: _load_setitem,
            pickle.SETITEMS[0]: _load_setitems,
            pickle.DICT[0]: _load_dict,
            pickle.FROZENSET[0]: _load_frozenset,
            pickle.UNICODE[0]: _load_unicode,
            pickle.LONG4[0]: _load_long4,
            pickle.BYTEARRAY8[0]: _load_bytearray8,
        }
    )


def _versions(metadata: Any) -> OrderedDict:
    """The versions in a state dict's metadata, of which nothing else is kept."""
    versions: OrderedDict = OrderedDict()
    for name, entry in metadata.items() if _is_mapping(metadata) else ():
        version = entry.get('version') if type(name) is str and _is_mapping(entry) else None
        if type(version) is int:
            versions[name] = {'version': version}
    return versions


CONTAINERS = (dict, OrderedDict, Counter, list, tuple)
"""What holds other values; their elements are looked at in :func:`check_extent`."""


def children_of(value: Any) -> list[Any]:
    """What a container of an inert pickle holds; other values and placeholders hold nothing."""
    if type(value) in (list, tuple):
        return list(value)
    return list(value.values()) if type(value) in CONTAINERS else []


def check_extent(content: Any) -> None:
    """Refuse what a program that walks through it would not come to the end of.

    Raises:
        pickle.UnpicklingError: It is nested too deeply, holds itself, or has too many entries,
            where one that is used twice counts twice.
    """
    # (depth, entries) of each container; None while its own containers are being looked at
    extents: dict[int, tuple[int, int] | None] = {}
    todo = [content] if type(content) in CONTAINERS else []
    while todo:
        value = todo[-1]
        if id(value) in extents and extents[id(value)] is not None:
            todo.pop()
            continue
        children = children_of(value)
        if id(value) not in extents:
            extents[id(value)] = None
            inner = [child for child in children if type(child) in CONTAINERS and child]
            if any(extents.get(id(child), ()) is None for child in inner):
                raise _refuse('a container that holds itself')
            todo += [child for child in inner if id(child) not in extents]
            continue
        todo.pop()
        found = [extents.get(id(child)) or (0, 1) for child in children]
        depth = 1 + max((deep for deep, _ in found), default=0)
        total = 1 + sum(entries for _, entries in found)
        if depth > limits.CHECKPOINT_DEPTH:
            raise _refuse(f'more than {limits.CHECKPOINT_DEPTH} containers within each other')
        if total > limits.CHECKPOINT_TOTAL_ENTRIES:
            raise _refuse(f'more than {limits.CHECKPOINT_TOTAL_ENTRIES} entries')
        extents[id(value)] = (depth, total)
