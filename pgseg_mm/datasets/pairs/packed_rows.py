"""Millions of annotations in little memory."""

from __future__ import annotations

import pickle
from array import array
from collections.abc import Sequence
from typing import Any, overload

import numpy as np


class PackedRows(Sequence):
    """Rows that are kept pickled, one behind the other, as mmengine's ``BaseDataset`` does later.

    A list of dictionaries would take seven times the memory until then.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array('q', [0])

    def append(self, row: dict[str, Any]) -> None:
        """Add a row."""
        self._bytes += pickle.dumps(row, protocol=4)
        self._ends.append(len(self._bytes))

    def serialized(self) -> tuple[np.ndarray, np.ndarray]:
        """All rows as uint8, and where each ends; they share this object's memory."""
        return np.frombuffer(self._bytes, np.uint8), np.frombuffer(self._ends, np.int64)[1:]

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self._row(number) for number in numbers]
        return self._row(numbers)

    def _row(self, number: int) -> dict[str, Any]:
        return pickle.loads(memoryview(self._bytes)[self._ends[number] : self._ends[number + 1]])
