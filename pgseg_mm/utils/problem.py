"""What a check says when a run would fail, or do nothing."""

from __future__ import annotations

MAX_LENGTH = 580
"""Characters of a message at most, whatever a config holds."""


class PreflightError(ValueError):
    """A run was refused before its first step, because of something that was known by then."""

    def __init__(self, message: str) -> None:
        if len(message) > MAX_LENGTH:
            half = (MAX_LENGTH - 5) // 2
            message = f'{message[:half]} ... {message[-half:]}'
        super().__init__(message)
