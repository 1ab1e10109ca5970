"""Reads pickles of unknown origin without running anything that they name.

The unpickler of ``torch.load(weights_only=True)`` is not used, nor extended by its
``add_safe_globals``: it ends at the first name that is not in its list, so that weights beside a
config cannot be had, and what is added is added for the whole process, and is then called with
whatever the file says, ``__setstate__`` included. It has no limit for the number of operations, for
copies of what is memoized, or for keys of the same hash, and does not compare declared sizes with
what the file has (:mod:`.torch_files`). Nor is it faster: 250 MiB take this reader 0.97 times as
long (docs/benchmarks/checkpoint_loading.md).
"""

from __future__ import annotations

import codecs
import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar

from pgseg_mm import limits

from .allowed_names import BYTEARRAY, ENCODE, MAKERS, NAMES, check_key, make_set
from .placeholders import ForeignObject, StoredTensor, is_mapping, refused

_MAKER_IDS = frozenset(map(id, MAKERS.values()))


class InertUnpickler(pickle._Unpickler):
    """Rebuilds tensors and plain containers; everything else becomes a :class:`ForeignObject`.

    Names are looked up in a fixed table, never imported, and each entry of that table that can be
    called is a function of :mod:`.allowed_names` that looks at its arguments first. Whatever else a
    pickle can do to an object (call it, set its state, fill it) is recorded in foreign objects, or
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
        raise refused(f'a pickle of more than {limits.CHECKPOINT_OPCODES} opcodes')

    def find_class(self, module: str, name: str) -> Any:
        """The entry of the table, or a placeholder."""
        found = NAMES.get((module, name))
        if found is not None:
            return found
        full = f'{module[:100]}.{name[:100]}'
        self.foreign.add(full)
        return ForeignObject(full)

    def get_extension(self, code: int) -> None:
        """Refuse names that are registered by number in the running process."""
        raise refused('an extension code')

    def _count_copy(self, size: int = 0, entries: int = 0) -> None:
        """Bound what is made of memoized values, of which a pickle may make any number."""
        self._copied_bytes -= size
        self._copied_entries -= entries
        if self._copied_bytes < 0 or self._copied_entries < 0:
            raise refused('copies of the same values again and again')

    def _call(self, func: Any, args: Any) -> Any:
        if type(args) is not tuple:
            raise refused('arguments that are no tuple')
        if func is ENCODE:
            return self._encode(*args)
        if func is BYTEARRAY:
            return bytearray(self._bytes_of(*args))
        if type(func) is ForeignObject:
            return ForeignObject(func.name, args)
        if id(func) not in _MAKER_IDS:
            raise refused(f'a call of {type(func).__name__}')
        if args and type(args[0]) in (list, dict, tuple):
            self._count_copy(entries=len(args[0]))
        return func(*args)

    def _encode(self, text: Any, encoding: Any) -> bytes:
        """How protocol 2 stores bytes; other encodings would look up codecs by name."""
        if type(text) is not str or encoding != 'latin1':
            raise refused('text in an encoding that is not expected')
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
                target.add(check_key(item, len(target)))
        else:
            raise refused(f'elements for an object of {type(target)}')

    def _set_items(self, target: Any, flat: list) -> None:
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        if type(target) is ForeignObject and target.args is not None:
            target.entries += pairs
        elif type(target) in (dict, OrderedDict, Counter):
            for key, value in pairs:
                target[check_key(key, len(target))] = value
        else:
            raise refused(f'keys and values for an object of {type(target)}')

    def _load_reduce(self) -> None:
        args, func = self.stack.pop(), self.stack.pop()
        self.append(self._call(func, args))

    def _load_newobj_ex(self) -> None:
        kwargs, args, cls = self.stack.pop(), self.stack.pop(), self.stack.pop()
        if kwargs and type(cls) is not ForeignObject:
            raise refused('a call with keywords')
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
            if is_mapping(state) and '_metadata' in state:
                if is_mapping(state['_metadata']):
                    self._count_copy(entries=len(state['_metadata']))
                target._metadata = _versions(state['_metadata'])  # type: ignore[attr-defined]
        else:
            raise refused(f'a state for an object of {type(target)}')

    def _load_persid(self) -> None:
        raise refused('a persistent id written as text')

    def _load_binpersid(self) -> None:
        pid = self.stack.pop()
        if self._load_storage is None or type(pid) is not tuple or not pid:
            raise refused('a persistent id that is no storage of a tensor')
        if type(pid[0]) is not str or pid[0] != 'storage':
            raise refused('a persistent id of another kind than a storage')
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
        self.append(frozenset(make_set(items)))

    def _load_unicode(self) -> None:
        # by its name, the codec would be imported
        self.append(codecs.raw_unicode_escape_decode(self.readline()[:-1])[0])

    def _load_int(self) -> None:
        self.load_int()  # type: ignore[attr-defined]
        self._check_number()

    def _load_long(self) -> None:
        self.load_long()  # type: ignore[attr-defined]
        self._check_number()

    def _check_number(self) -> None:
        if self.stack[-1].bit_length() > 8 * 255:
            self._load_long4()

    def _load_long4(self) -> None:
        raise refused('a number of more than 255 bytes')

    def _load_bytearray8(self) -> None:
        length = int.from_bytes(self.read(8), 'little')
        if length > self._size:
            raise refused(f'an array of {length} bytes')
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
            pickle.INT[0]: _load_int,
            pickle.LONG[0]: _load_long,
            pickle.LONG4[0]: _load_long4,
            pickle.BYTEARRAY8[0]: _load_bytearray8,
        }
    )


def _versions(metadata: Any) -> OrderedDict:
    """The versions in a state dict's metadata, of which nothing else is kept."""
    versions: OrderedDict = OrderedDict()
    for name, entry in metadata.items() if is_mapping(metadata) else ():
        version = entry.get('version') if type(name) is str and is_mapping(entry) else None
        if type(version) is int:
            versions[name] = {'version': version}
    return versions
