"""Reads pickles of unknown origin without running anything that they name."""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, BinaryIO, ClassVar

import torch
from torch.serialization import StorageType


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


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 stores bytes; other encodings would look up codecs by name."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'text in encoding {encoding!r} is not expected')
    return text.encode('latin1')


_CALLABLES: dict[tuple[str, str], Callable] = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('builtins', 'set'): set,
    ('__builtin__', 'set'): set,
    ('_codecs', 'encode'): _encode,
    ('torch', 'Size'): torch.Size,
    ('torch', 'device'): torch.device,
    ('torch._utils', '_rebuild_tensor'): torch._utils._rebuild_tensor,
    ('torch._utils', '_rebuild_tensor_v2'): torch._utils._rebuild_tensor_v2,
    ('torch._utils', '_rebuild_parameter'): torch._utils._rebuild_parameter,
}
_VALUES = {
    ('torch', name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)
}
_ALLOWED: dict[tuple[str, str], Any] = {**_CALLABLES, **_VALUES}


class InertUnpickler(pickle._Unpickler):
    """Rebuilds tensors and plain containers; everything else becomes a :class:`ForeignObject`.

    Names are looked up in a fixed table, never imported. Whatever a pickle can do to an object
    (call it, set its state, fill it) is allowed for the types of that table and recorded in foreign
    objects. Python's own implementation is extended because the one in C does these things itself.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    foreign: set[str] = set()
    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        """The entry of the table, or a placeholder."""
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        self.foreign.add(f'{module}.{name}')
        return ForeignObject(f'{module}.{name}')

    def get_extension(self, code: int) -> None:
        """Refuse names that are registered by number in the running process."""
        raise pickle.UnpicklingError('extension codes are not expected in a checkpoint')

    def _call(self, func: Any, args: Any) -> Any:
        if not isinstance(args, tuple):
            raise pickle.UnpicklingError('arguments that are no tuple')
        if isinstance(func, ForeignObject):
            return ForeignObject(func.name, args)
        if any(func is allowed for allowed in _CALLABLES.values()):
            return func(*args)
        raise pickle.UnpicklingError(f'{func!r} must not be called')

    def _fill(self, target: Any, items: list) -> None:
        if isinstance(target, ForeignObject):
            target.entries += items
        elif type(target) is list:
            target += items
        elif type(target) is set:
            target.update(items)
        else:
            raise pickle.UnpicklingError(f'elements for an object of {type(target)}')

    def _set_items(self, target: Any, flat: list) -> None:
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        if isinstance(target, ForeignObject):
            target.entries += pairs
        elif type(target) in (dict, OrderedDict):
            target.update(pairs)
        else:
            raise pickle.UnpicklingError(f'keys and values for an object of {type(target)}')

    def _load_reduce(self) -> None:
        args, func = self.stack.pop(), self.stack.pop()
        self.stack.append(self._call(func, args))

    def _load_newobj_ex(self) -> None:
        kwargs, args, cls = self.stack.pop(), self.stack.pop(), self.stack.pop()
        if kwargs and not isinstance(cls, ForeignObject):
            raise pickle.UnpicklingError(f'{cls!r} must not be called with keywords')
        self.stack.append(self._call(cls, args))

    def _load_inst(self) -> None:
        module, name = (self.readline()[:-1].decode('ascii') for _ in range(2))  # type: ignore[attr-defined]
        args = tuple(self._pop_mark())
        self.stack.append(self._call(self.find_class(module, name), args))

    def _load_obj(self) -> None:
        cls, *args = self._pop_mark()
        self.stack.append(self._call(cls, tuple(args)))

    def _load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, ForeignObject):
            target.state = state
        elif type(target) is not OrderedDict:  # that of a state dict holds nothing but versions
            raise pickle.UnpicklingError(f'a state for an object of {type(target)}')

    def _load_persid(self) -> None:
        raise pickle.UnpicklingError('persistent ids written as text are not expected')

    def _load_binpersid(self) -> None:
        pid = self.stack.pop()
        if not (
            isinstance(pid, tuple)
            and len(pid) > 1
            and pid[0] == 'storage'
            and isinstance(pid[1], StorageType)
        ):
            raise pickle.UnpicklingError('a persistent id that is no storage of a tensor')
        self.stack.append(self.persistent_load(pid))

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
        }
    )


def inert_pickle_module() -> SimpleNamespace:
    """What ``torch.load`` takes as ``pickle_module``.

    Returns:
        A namespace with ``Unpickler``, ``load``, and ``foreign``: the names of everything that was
        replaced by a placeholder so far.
    """

    class Unpickler(InertUnpickler):
        foreign: set[str] = set()

    def load(file: BinaryIO, **kwargs: Any) -> Any:
        return Unpickler(file, **kwargs).load()

    return SimpleNamespace(
        __name__='inert_pickle', Unpickler=Unpickler, load=load, foreign=Unpickler.foreign
    )
