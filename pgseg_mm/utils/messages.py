"""Values in messages, short whatever they are."""

from __future__ import annotations

from typing import Any

MAX_QUOTED = 80


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
