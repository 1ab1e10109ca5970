"""Text of a given width in pixels."""

from bisect import bisect_left
from functools import cache
from pathlib import Path

import matplotlib
from PIL import ImageFont

LETTERS_A_PIXEL = 4
"""More of them, and a line is too wide without being measured."""
FONT = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans.ttf'


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib.

    Args:
        size: Size in pixels.
    """
    return ImageFont.truetype(str(FONT), size)


def width_of(text: str, size: int) -> int:
    """Width of a line in pixels."""
    return round(font(size).getlength(text))


def shorten(text: str, size: int, width: int) -> str:
    """Cut a line that is wider than ``width`` pixels, and end it with an ellipsis.

    Returns:
        The line, or nothing where no letter has room.
    """
    # laying out brackets takes the square of their number
    is_long = len(text) > LETTERS_A_PIXEL * width
    text = text[: LETTERS_A_PIXEL * width]
    if not is_long and width_of(text, size) <= width:
        return text

    def is_wide(kept: int) -> bool:
        return width_of(f'{text[:kept].rstrip()}…', size) > width

    kept = bisect_left(range(1, len(text) + 1), True, key=is_wide)
    return f'{text[:kept].rstrip()}…' if kept else ''
