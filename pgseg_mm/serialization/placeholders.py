"""What stands for the parts of a pickle that are not loaded."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any

import torch


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


def refused(text: str) -> pickle.UnpicklingError:
    """The error for what a pickle asks for and does not get."""
    return pickle.UnpicklingError(text)


def is_mapping(value: Any) -> bool:
    """Whether a value is a plain mapping, and no subclass with methods of its own."""
    return type(value) in (dict, OrderedDict)
