"""Damages files as a stranger would."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any


def mutate(rng: Any, content: bytes, most: int = 8) -> bytes:
    """A file with some bytes changed, cut out, doubled, or replaced by telling ones.

    Args:
        rng: A ``random.Random``.
        content: The file.
        most: Changes at most.
    """
    data = bytearray(content)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(data) + 1)
        change = rng.choice(CHANGES)
        data = change(rng, data, at)
    return bytes(data)


def _flip(rng: Any, data: bytearray, at: int) -> bytearray:
    if at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    return data


def _put(rng: Any, data: bytearray, at: int) -> bytearray:
    token = rng.choice(TOKENS)
    data[at : at + len(token)] = token
    return data


def _insert(rng: Any, data: bytearray, at: int) -> bytearray:
    data[at:at] = rng.choice(TOKENS)
    return data


def _cut(rng: Any, data: bytearray, at: int) -> bytearray:
    del data[at : at + rng.choice([1, 7, 512, len(data)])]
    return data


def _double(rng: Any, data: bytearray, at: int) -> bytearray:
    data[at:at] = data[at : at + rng.choice([1, 16, 512])]
    return data


CHANGES: list[Callable[[Any, bytearray, int], bytearray]] = [_flip, _put, _insert, _cut, _double]
TOKENS = [
    b'\0',
    b'\xff',
    b'\xff\xff\xff\xff',
    b'\x7f\xff\xff\xff\xff\xff\xff\xff',
    b'\x80\x00\x00\x00\x00\x00\x00\x01',
    b'-1',
    b'9' * 30,
    b'../',
    b'/etc/passwd',
    b'http://127.0.0.1:1/',
    b'\xed\xa0\x80',
    b'\xef\xbb\xbf',
    b'%s%n',
    b'"',
    b'\\',
    b'\r\n',
    b'[{',
    b'NaN',
    b'1e999',
]


def mutate_binary(rng: random.Random, content: bytes) -> bytes:
    """A file with some bytes changed, cut out, doubled or added, or replaced by large numbers."""
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
