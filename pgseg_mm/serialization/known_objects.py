"""Makes the few kinds of objects that a Runner leaves in its checkpoints of what the file holds."""

from __future__ import annotations

import math
import pickle
import re
import sys
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer

from pgseg_mm import limits

from .extent import CONTAINERS
from .placeholders import ForeignObject

NUMBERS = {
    f'{kind}{width}'
    for kind, widths in (('b', '1'), ('i', '1248'), ('u', '1248'), ('f', '248'), ('c', ('8', '16')))
    for width in widths
}
"""Codes of the types of numbers that arrays may have."""
TEXT_CODE = re.compile(r'[SU][1-9][0-9]{0,5}')
STATISTICS = ('min', 'max', 'current', 'mean')
BUFFER = 'mmengine.logging.history_buffer.HistoryBuffer'
# of NumPy 1 and 2, whichever wrote the file
_MULTIARRAYS = ('numpy.core.multiarray', 'numpy._core.multiarray')
_NUMERICS = ('numpy.core.numeric', 'numpy._core.numeric')
KNOWN_NAMES = {
    BUFFER,
    'numpy.dtype',
    'numpy.ndarray',
    *(f'{core}.{name}' for core in _MULTIARRAYS for name in ('_reconstruct', 'scalar')),
    *(f'{core}._frombuffer' for core in _NUMERICS),
}


def make_known_objects(content: Any) -> tuple[Any, set[str]]:
    """Put real objects in the places of placeholders, where they are of a known kind.

    Known are mmengine's history buffers, NumPy's arrays and scalars of plain numbers or text, and
    slices. They are made of shape, type and bytes, each of which is looked at before; no
    constructor is given anything else from the file.

    Args:
        content: Of an inert pickle, within :func:`.extent.check_extent`. It is changed.

    Returns:
        The content, and the names of what is left in it as placeholders.

    Raises:
        UnpicklingError: Arrays share their bytes, and would take more memory than the limits allow.
    """
    converter = _Converter()
    return converter.convert(content), converter.left


class _Converter:
    """Walks through a content and remembers what was made of each placeholder."""

    def __init__(self) -> None:
        self.left: set[str] = set()
        self._made: dict[int, Any] = {}
        self._bytes_left = limits.CHECKPOINT_PICKLE_BYTES

    def convert(self, value: Any) -> Any:
        """The value, or what is put in its place."""
        if type(value) not in CONTAINERS and not isinstance(value, ForeignObject):
            return value
        if id(value) not in self._made:
            self._made[id(value)] = self._convert_new(value)
        return self._made[id(value)]

    def _convert_new(self, value: Any) -> Any:
        if isinstance(value, ForeignObject):
            made = self._make(value)
            if made is None:
                self.left.add(value.name)
                return value
            return made
        if type(value) is tuple:
            items = tuple(map(self.convert, value))
            return value if all(a is b for a, b in zip(items, value, strict=True)) else items
        if type(value) is list:
            value[:] = map(self.convert, value)
            return value
        self.left.update(key.name for key in value if isinstance(key, ForeignObject))
        for key in value:
            value[key] = self.convert(value[key])
        return value

    def _make(self, found: Any) -> Any:
        """The object that a placeholder stands for, or ``None``: of no known kind, or damaged."""
        if type(found) is not ForeignObject or found.args is None or found.entries:
            return None
        name, args, state = found.name, found.args, found.state
        core, _, function = name.rpartition('.')
        if name == BUFFER:
            return self._make_buffer(state) if args == () else None
        if core in _MULTIARRAYS and function == '_reconstruct':
            if type(state) is not tuple or len(state) != 5 or type(state[3]) is not bool:
                return None
            return self._make_array(state[2], state[1], state[4], 'F' if state[3] else 'C')
        if state is not None:
            return None
        if core in _MULTIARRAYS and function == 'scalar' and len(args) == 2:
            array = self._make_array(args[0], (), args[1], 'C')
            return None if array is None else array[()]
        if core in _NUMERICS and function == '_frombuffer' and len(args) == 4:
            return self._make_array(args[1], args[2], args[0], args[3])
        if name in ('builtins.slice', '__builtin__.slice') and 1 <= len(args) <= 3:
            return slice(*args) if all(type(v) in (int, type(None)) for v in args) else None
        return None

    def _make_array(self, dtype: Any, shape: Any, content: Any, order: Any) -> np.ndarray | None:
        code = _type_code(dtype)
        if code is None or type(shape) is not tuple or len(shape) > 32:
            return None
        if type(content) not in (bytes, bytearray) or type(order) is not str or order not in 'CF':
            return None
        if any(type(length) is not int or not 0 <= length < 2**48 for length in shape):
            return None
        known = np.dtype(code)
        if math.prod(shape) * known.itemsize != len(content):
            return None
        self._bytes_left -= len(content)
        if self._bytes_left < 0:
            raise pickle.UnpicklingError('arrays that share their bytes again and again')
        values = np.frombuffer(content, known)
        if known.kind == 'b' and values.view(np.uint8).max(initial=0) > 1:
            return None
        if known.kind == 'U':
            points = np.frombuffer(content, np.dtype(f'{code[0]}u4'))
            if points.max(initial=0) > sys.maxunicode:
                return None
        return values.reshape(shape, order=order).copy(order)  # type: ignore[call-overload]

    def _make_buffer(self, state: Any) -> HistoryBuffer | None:
        """A history buffer; its statistics are those of the class, whatever the file says."""
        if type(state) is not dict:
            return None
        expected = {'max_length', '_log_history', '_count_history'}
        if not expected <= set(state) <= expected | {'statistics_methods'}:
            return None
        names = state.get('statistics_methods', {})
        if type(names) is not dict or not set(names) <= set(STATISTICS):
            return None
        log, count = self._make(state['_log_history']), self._make(state['_count_history'])
        for history in (log, count):
            if not isinstance(history, np.ndarray) or history.ndim != 1:
                return None
            if history.dtype.kind not in 'biuf':
                return None
        length = state['max_length']
        if type(length) is not int or not len(log) == len(count) <= length < 2**48:
            return None
        return HistoryBuffer(log, count, length)


def _type_code(found: Any) -> str | None:
    """Code of a NumPy type, such as ``<f8``, if it is one of plain numbers or text."""
    if type(found) is not ForeignObject or found.name != 'numpy.dtype' or not found.args:
        return None
    code = found.args[0]
    if type(code) is not str or not (code in NUMBERS or TEXT_CODE.fullmatch(code)):
        return None
    if any(type(flag) not in (bool, int) for flag in found.args[1:]):
        return None
    if found.state is None:
        return f'={code}'
    # version, byte order, and fields of types that hold others
    state = found.state if type(found.state) is tuple else ()
    if len(state) < 5 or any(value is not None for value in state[2:5]):
        return None
    if type(state[1]) is not str or state[1] not in ('<', '>', '=', '|'):
        return None
    return f'{state[1]}{code}'
