from typing import Any


def check_whole(what: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Refuse what is no whole number of a range.

    Args:
        what: What it is, for the message.
        value: The number.
        least: Smallest one.
        most: Largest one; by default there is none.

    Raises:
        ValueError: If it is none.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        limits = f'of at least {least}' if most is None else f'from {least} to {most}'
        raise ValueError(f'{what} must be an integer {limits}, got {value!r}')
