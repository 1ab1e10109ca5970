"""Flickr8k and DAVIS 2016 in their own layouts, with made pictures."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = dict(red=(255, 0, 0), green=(0, 255, 0), blue=(0, 0, 255))
SPLITS = dict(train=range(8), dev=range(8, 10), test=range(10, 14))
"""Numbers of the photographs of each split."""
IN_NO_SPLIT = 14


def photograph_name(number: int) -> str:
    return f'{1000 + number}_0a{number}.jpg'


def photograph_captions(number: int) -> list[str]:
    colour = list(COLOURS)[number % 3]
    return [f'A {colour} dog number {number} , seen {n} times .' for n in range(5)]


def write_flickr8k(root: Path, folder: str = 'Flicker8k_Dataset') -> Path:
    """Fifteen photographs of 30 x 20 px, one of them in no split, with five captions each."""
    (root / folder).mkdir(parents=True)
    lines = []
    for number in range(IN_NO_SPLIT + 1):
        colour = COLOURS[list(COLOURS)[number % 3]]
        Image.new('RGB', (30, 20), colour).save(root / folder / photograph_name(number))
        for n, caption in enumerate(photograph_captions(number)):
            lines.append(f'{photograph_name(number)}#{n}\t{caption}')
    (root / 'Flickr8k.token.txt').write_text('\n'.join(lines) + '\n')
    for split, numbers in SPLITS.items():
        names = ''.join(f'{photograph_name(number)}\n' for number in numbers)
        (root / f'Flickr_8k.{split}Images.txt').write_text(names)
    return root


def write_davis(
    root: Path, sequences: tuple[str, ...], resolution: str = '480p', frames: int = 3
) -> Path:
    """Frames of 24 x 16 px whose left third is the main object."""
    mask = np.zeros((16, 24), np.uint8)
    mask[:, :8] = 255
    for sequence in sequences:
        for name in ('JPEGImages', 'Annotations'):
            (root / name / resolution / sequence).mkdir(parents=True)
        for number in range(frames):
            frame = f'{resolution}/{sequence}/{number:05d}'
            Image.new('RGB', (24, 16), (80 * number, 0, 0)).save(root / f'JPEGImages/{frame}.jpg')
            Image.fromarray(mask).save(root / f'Annotations/{frame}.png')
    return root
