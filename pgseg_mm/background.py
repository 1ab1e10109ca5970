"""The class that takes what is like none of the words."""

from collections.abc import Sequence

BACKGROUND = 'background'
"""Its name."""


def is_background(name: str) -> bool:
    """Whether a class of this name is the background; case does not count."""
    return name.casefold() == BACKGROUND


def has_background(names: Sequence[str]) -> bool:
    """Whether class 0 of several is the background."""
    return len(names) > 0 and is_background(names[0])
