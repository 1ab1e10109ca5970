"""Names and values of other people in messages: printable and short, whatever they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import limits

MAX_QUOTED = 80
SURROGATE_ESCAPE = range(0xDC80, 0xDD00)
"""Where Python keeps the bytes of a file name that is not UTF-8."""


def shown(name: object, part: int | None = None) -> str:
    """A path or name as it can be printed: on one line, in UTF-8, and not longer than needed.

    Args:
        name: Anything; what counts is its ``str``.
        part: Characters that are shown of both ends; by default ``limits.MAX_SHOWN_CHARACTERS``.

    Examples:
        >>> shown('caf\\udce9\\n.png')
        'caf\\\\xe9\\\\n.png'
    """
    text = str(name)
    shown_part = limits.MAX_SHOWN_CHARACTERS if part is None else part
    if len(text) > 4 * shown_part:  # escaping takes time
        text = f'{text[: 2 * shown_part]}...{text[-2 * shown_part :]}'
    if not text.isprintable():
        text = ''.join(map(_escaped, text))
    if len(text) <= 2 * shown_part:
        return text
    return f'{text[:shown_part]}...{text[-shown_part:]}'


def quoted(value: Any) -> str:
    """A value as Python writes it, or its beginning and its length.

    Args:
        value: Anything; of long text and bytes only the beginning is looked at.
    """
    if isinstance(value, (str, bytes)) and len(value) > MAX_QUOTED:
        kind = 'letters' if isinstance(value, str) else 'bytes'
        return f'{value[:MAX_QUOTED]!r}... ({len(value)} {kind})'
    text = repr(value)
    return text if len(text) <= 2 * MAX_QUOTED else f'{text[:MAX_QUOTED]}...'


def described(value: Any) -> str:
    """A value as a message can name it: itself and its type, or its type and size."""
    kind = type(value).__name__
    if value is None or isinstance(value, bool | float):
        return f'{value!r} of type {kind}'
    if isinstance(value, int):
        digits = value.bit_length() // 3
        return f'of type int, of about {digits} digits' if digits > 40 else f'{value} of type int'
    if isinstance(value, str) and len(value) <= limits.MAX_SHOWN_CHARACTERS:
        return f'{shown(repr(value))} of type str'
    if isinstance(value, dict):
        keys = ', '.join(shown(key) for key in list(value)[:5])
        return f'of type dict with {len(value)} keys ({shown(keys)})'
    size = f' and length {len(value)}' if hasattr(value, '__len__') else ''
    return f'of type {kind}{size}'


def first_line(error: BaseException) -> str:
    """What an error says, on one line; its arguments where ``KeyError`` would quote."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    return shown((text.strip().splitlines() or [''])[0], limits.MAX_SHOWN_SENTENCE)


def listed(names: Any, most: int = 10) -> str:
    """Some names in brackets, and how many more there are."""
    names = list(names)
    return f'[{", ".join(repr(shown(name)) for name in names[:most])}]{_and_more(names, most)}'


def first_of(texts: Sequence[str], most: int = 5, separator: str = ', ') -> str:
    """The first of some texts, and how many more there are.

    Args:
        texts: What is put together as it is.
        most: How many of them are shown.
        separator: What stands between two.

    Examples:
        >>> first_of(['a', 'b', 'c'], 2)
        'a, b and 1 more'
    """
    return separator.join(texts[:most]) + _and_more(texts, most)


def _and_more(texts: Sequence[Any], most: int) -> str:
    return f' and {len(texts) - most} more' if len(texts) > most else ''


def _escaped(letter: str) -> str:
    if ord(letter) in SURROGATE_ESCAPE:
        return f'\\x{ord(letter) - 0xDC00:02x}'
    return letter if letter.isprintable() else repr(letter)[1:-1]
