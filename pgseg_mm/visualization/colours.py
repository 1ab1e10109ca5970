"""Colours that are easy to tell apart."""

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from pgseg_mm.background import has_background

Colours = NDArray[np.uint8]
"""(number, 3), RGB from 0 to 255."""
FIRST = (31, 119, 180)
LIGHTNESS = (38, 88)
"""Darkest and lightest colour, from 0 to 100."""
TOO_CLOSE = 17
"""Distance in CIELAB below which neighbouring segments are mistaken for each other."""
BACKGROUND_COLOUR = (0, 0, 0)


def distinct_colours(number: int) -> Colours:
    """Colours each of which is as far as can be from all before it.

    The first ones are the same for any number. After some two thousand they repeat.
    """
    sequence = _sequence()
    return sequence[np.arange(number) % len(sequence)]


def class_colours(
    classes: Sequence[str], palette: Sequence[Sequence[int]] | None = None
) -> Colours:
    """Colours of classes.

    Args:
        classes: Class names in label order.
        palette: Their colours, RGB from 0 to 255; by default distinct ones, and black for a
            background as class 0.

    Raises:
        ValueError: If the palette is too short.
    """
    if palette is not None:
        if len(palette) < len(classes):
            raise ValueError(f'{len(classes)} classes need as many colours, got {len(palette)}')
        return np.asarray(palette, dtype=np.uint8).reshape(-1, 3)[: len(classes)]
    if has_background(classes):
        return np.concatenate(
            [np.array([BACKGROUND_COLOUR], np.uint8), distinct_colours(len(classes) - 1)]
        )
    return distinct_colours(len(classes))


def separate(colours: Colours, labels: Sequence[int]) -> Colours:
    """Give other colours to classes whose own are hard to tell apart in one picture.

    Args:
        colours: Colours of all classes.
        labels: Classes that occur. The earlier ones keep their colours.

    Returns:
        A copy of the colours in which those of ``labels`` differ as far as they need to.
    """
    colours = colours.copy()
    candidates = _sequence()
    candidates_lab = _to_lab(candidates)
    room = np.full(len(candidates), np.inf)
    """Distance of each candidate to the nearest colour taken so far."""
    taken = np.empty((0, 3))
    for label in labels:
        lab = _to_lab(colours[label : label + 1])
        nearest = np.linalg.norm(taken - lab, axis=1).min(initial=np.inf)
        best = int(room.argmax())
        if nearest < TOO_CLOSE and room[best] > nearest:
            colours[label] = candidates[best]
            lab = candidates_lab[best : best + 1]
        taken = np.concatenate([taken, lab])
        room = np.minimum(room, np.linalg.norm(candidates_lab - lab, axis=1))
    return colours


@cache
def _sequence() -> Colours:
    """All candidates, farthest first."""
    steps = np.arange(17, 255, 17, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing='ij'), axis=-1).reshape(-1, 3)
    lightness = _to_lab(grid)[:, 0]
    grid = grid[(lightness >= LIGHTNESS[0]) & (lightness <= LIGHTNESS[1])]
    grid = np.concatenate([np.array([FIRST], np.uint8), grid])
    lab = _to_lab(grid)
    order = [0]
    room = np.linalg.norm(lab - lab[0], axis=1)
    while len(order) < len(grid):
        order.append(int(room.argmax()))
        room = np.minimum(room, np.linalg.norm(lab - lab[order[-1]], axis=1))
    return grid[order]


def _to_lab(colours: Colours) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0])
