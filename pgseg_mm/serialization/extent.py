"""How deep and how large the content of a pickle is."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

from pgseg_mm import limits

from .placeholders import refused

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
                raise refused('a container that holds itself')
            todo += [child for child in inner if id(child) not in extents]
            continue
        todo.pop()
        found = [extents.get(id(child)) or (0, 1) for child in children]
        depth = 1 + max((deep for deep, _ in found), default=0)
        total = 1 + sum(entries for _, entries in found)
        if depth > limits.CHECKPOINT_DEPTH:
            raise refused(f'more than {limits.CHECKPOINT_DEPTH} containers within each other')
        if total > limits.CHECKPOINT_TOTAL_ENTRIES:
            raise refused(f'more than {limits.CHECKPOINT_TOTAL_ENTRIES} entries')
        extents[id(value)] = (depth, total)
