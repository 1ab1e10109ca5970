"""Numbers of a command line, with their limits."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def number_from(
    lowest: float, highest: float | None = None, kind: type[int] | type[float] = int
) -> Callable[[str], float]:
    """What ``argparse`` takes as ``type`` for a number within limits.

    Args:
        lowest: The smallest one allowed.
        highest: The largest one allowed, if there is a limit.
        kind: ``int`` or ``float``.

    Returns:
        A function that reads the number of a text, and refuses others in a sentence.
    """
    what = 'a whole number' if kind is int else 'a number'
    upwards = f'{what} of at least {lowest}'
    wanted = upwards if highest is None else f'{what} from {lowest} to {highest}'

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(lowest) - 1
        # not a number compares with nothing
        if not (value >= lowest and (highest is None or value <= highest)):
            raise argparse.ArgumentTypeError(f'expected {wanted}, got {text[:40]!r}')
        return value

    return read
