"""The names that a pickle may use, and what each of them does: there are no others.

What can be called is a function of this module that looks at its arguments first.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from pgseg_mm import limits

from .placeholders import ForeignObject, StorageKind, StoredTensor, is_mapping, refused


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _make_tensor(
    stored: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """A tensor of stored numbers, which must be there."""
    if type(stored) is not StoredTensor:
        raise refused('a tensor without a storage')
    if dtype is None:
        dtype, numel = stored.dtype, stored.numel
    else:
        numel = stored.storage.nbytes() // dtype.itemsize
    if type(size) not in (tuple, torch.Size) or type(stride) not in (tuple, torch.Size):
        raise refused('a tensor whose shape is no tuple')
    if len(size) != len(stride) or len(size) > 64 or not _is_count(offset):
        raise refused('a tensor whose shape, strides and offset do not fit each other')
    if not all(map(_is_count, (*size, *stride))):
        raise refused('a tensor of a shape that is not of whole numbers')
    elements, last = 1, offset
    for length, step in zip(size, stride, strict=True):
        elements *= length
        last += (length - 1) * step
    if elements > max(numel, limits.CHECKPOINT_REPEATED_ELEMENTS):
        raise refused(f'a tensor of {elements} elements of which {numel} are stored')
    if (elements and last >= numel) or (not elements and offset > numel):
        raise refused(f'a tensor that ends behind the {numel} elements that are stored')
    empty = torch.empty((0,), dtype=dtype, device=stored.storage.device)
    return empty.set_(stored.storage, offset, tuple(size), tuple(stride))


def _finish_tensor(
    tensor: torch.Tensor, requires_grad: Any, hooks: Any, metadata: Any = None
) -> torch.Tensor:
    if type(requires_grad) is not bool or hooks or (hooks is not None and not is_mapping(hooks)):
        raise refused('a tensor with hooks')
    if requires_grad:
        tensor.requires_grad_()
    if metadata:
        if not (is_mapping(metadata) and tensor.is_complex()) or any(
            key not in ('conj', 'neg') or type(value) is not bool for key, value in metadata.items()
        ):
            raise refused('a tensor with unknown flags')
        torch._utils.set_tensor_metadata(tensor, dict(metadata))
    return tensor


def _rebuild_tensor(stored: Any, offset: Any, size: Any, stride: Any) -> torch.Tensor:
    return _make_tensor(stored, offset, size, stride)


def _rebuild_tensor_v2(
    stored: Any, offset: Any, size: Any, stride: Any, *flags: Any
) -> torch.Tensor:
    return _finish_tensor(_make_tensor(stored, offset, size, stride), *flags)


def _rebuild_tensor_v3(
    stored: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    *metadata: Any,
) -> torch.Tensor:
    """The same of a storage without a type of its own."""
    if type(dtype) is not torch.dtype or dtype not in _DTYPES.values() or dtype is torch.bool:
        raise refused('a tensor of an unknown type')
    tensor = _make_tensor(stored, offset, size, stride, dtype)
    return _finish_tensor(tensor, requires_grad, hooks, *metadata)


def _rebuild_parameter(data: Any, requires_grad: Any, hooks: Any) -> torch.nn.Parameter:
    if type(data) is not torch.Tensor or type(requires_grad) is not bool or hooks:
        raise refused('a parameter that is made of no tensor, or with hooks')
    return torch.nn.Parameter(data, requires_grad)


def _no_bytes() -> bytes:
    """How protocol 2 stores bytes that are empty."""
    return b''


def _pairs(*args: Any) -> OrderedDict:
    if len(args) > 1 or (args and type(args[0]) is not list):
        raise refused('arguments of an OrderedDict that are no list')
    result: OrderedDict = OrderedDict()
    for pair in args[0] if args else ():
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise refused('an entry of an OrderedDict that is no pair')
        result[check_key(pair[0], len(result))] = pair[1]
    return result


def _set(*args: Any) -> set:
    if len(args) > 1 or (args and type(args[0]) is not list):
        raise refused('arguments of a set that are no list')
    return make_set(args[0] if args else [])


def _counter(*args: Any) -> Counter:
    if len(args) > 1 or (args and type(args[0]) is not dict):
        raise refused('arguments of a Counter that are no dict')
    return Counter(*args)


def _size(*args: Any) -> torch.Size:
    if len(args) != 1 or type(args[0]) is not tuple or not all(map(_is_count, args[0])):
        raise refused('a torch.Size that is not of whole numbers')
    return torch.Size(args[0])


def _device(*args: Any) -> torch.device:
    if not 1 <= len(args) <= 2 or type(args[0]) is not str or len(args[0]) > 32:
        raise refused('a torch.device without a name')
    if len(args) == 2 and not (_is_count(args[1]) and args[1] < 128):
        raise refused('a torch.device with an odd index')
    return torch.device(*args)


def _complex(*args: Any) -> complex:
    if len(args) != 2 or not all(type(value) in (int, float) for value in args):
        raise refused('a complex number that is not of two numbers')
    return complex(*args)


_PLAIN_KEYS = (str, bytes, bool, float, type(None), ForeignObject, torch.dtype, torch.device)


def make_set(items: list) -> set:
    """A set whose elements are looked at as keys are."""
    result: set = set()
    for item in items:
        result.add(check_key(item, len(result)))
    return result


def check_key(key: Any, held: int) -> Any:
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
        raise refused(f'more than {held} keys that are tuples, fractions or large numbers')
    if kind is tuple:
        if len(key) > limits.CHECKPOINT_KEY_LENGTH or any(type(part) is tuple for part in key):
            raise refused('a long or nested tuple as a key')
        for part in key:
            check_key(part, 0)
    elif kind is int:
        if not -(2**63) <= key < 2**64:
            raise refused('a large number as a key')
    elif kind not in _PLAIN_KEYS:
        raise refused(f'a key of type {kind.__name__}')
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
MAKERS: dict[tuple[str, str], Callable] = {
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
ENCODE = ForeignObject('_codecs.encode')
BYTEARRAY = ForeignObject('builtins.bytearray')
NAMES: dict[tuple[str, str], Any] = {
    **MAKERS,
    **{('torch', name): dtype for name, dtype in _DTYPES.items()},
    **{('torch', name): kind for name, kind in _STORAGES.items()},
    ('torch.storage', 'UntypedStorage'): StorageKind(torch.uint8),
    ('_codecs', 'encode'): ENCODE,
    ('builtins', 'bytearray'): BYTEARRAY,
    ('__builtin__', 'bytearray'): BYTEARRAY,
}
