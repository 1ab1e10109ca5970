"""Data that the stages make for themselves: nothing of it is carried or downloaded."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..parallel import in_processes

COLORS = ('red', 'green', 'blue', 'white')


def make_scenes(folder: Path, number: int, size: tuple[int, int], num_classes: int) -> Path:
    """Noisy images of rectangles, as pairs with captions and as a labelled validation set.

    Args:
        folder: Gets ``images/val``, ``annotations/val``, ``captions_train.jsonl`` and
            ``classes.txt``.
        number: Images.
        size: Height and width in pixels.
        num_classes: Classes 0, 1, 2, ... of the labels.
    """
    for part in ('images/val', 'annotations/val'):
        (folder / part).mkdir(parents=True)
    in_processes(partial(_make_scene, folder, size, num_classes), number)
    rows = [
        {'image': f'{i}.png', 'caption': f'a {COLORS[i % 4]} thing, number {i}'}
        for i in range(number)
    ]
    lines = '\n'.join(json.dumps({**row, 'image': f'images/val/{row["image"]}'}) for row in rows)
    (folder / 'captions_train.jsonl').write_text(lines + '\n', encoding='utf-8')
    names = '\n'.join(f'thing {i}' for i in range(num_classes))
    (folder / 'classes.txt').write_text(names + '\n', encoding='utf-8')
    return folder


def _make_scene(folder: Path, size: tuple[int, int], num_classes: int, index: int) -> None:
    rng = np.random.default_rng(index)
    labels = np.zeros(size, dtype=np.uint8)
    image = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
    for _ in range(6):
        top, left = (int(rng.integers(length)) for length in size)
        area = (
            slice(top, top + size[0] // 2),
            slice(left, left + size[1] // 2),
        )
        labels[area] = rng.integers(num_classes)
        image[area] = image[area] // 4 + rng.integers(0, 200, 3, dtype=np.uint8)
    Image.fromarray(image).save(folder / 'images/val' / f'{index}.png', compress_level=1)
    Image.fromarray(labels).save(folder / 'annotations/val' / f'{index}.png', compress_level=1)
