"""Colours for label maps."""

from __future__ import annotations

import numpy as np


def distinct_colours(number: int) -> list[list[int]]:
    """Colours of labels, no two alike, the same at every call.

    They are those of Pascal VOC, which spreads the bits of a label over the high bits of red, green
    and blue; label 0 is black.

    Args:
        number: How many; at most 2 ** 24.

    Returns:
        [red, green, blue] for each label.
    """
    labels = np.arange(number)
    colours = np.zeros((number, 3), dtype=np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((labels >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.tolist()
