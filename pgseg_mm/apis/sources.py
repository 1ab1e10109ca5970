"""The images that a user gives: paths, arrays, folders, lists and iterators of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence, Sized
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray
from torchvision.datasets.folder import IMG_EXTENSIONS

from pgseg_mm.utils.messages import shown

SUFFIXES = (*IMG_EXTENSIONS, '.avif', '.gif', '.jfif')
"""Files of a folder that are taken for images."""
MAX_LISTED = 5

Image = str | PathLike[str] | NDArray[np.uint8]
Images = Image | Iterable[Image]


def is_single(images: Any) -> bool:
    """Whether this is one image, and not a folder, a list or an iterator."""
    if isinstance(images, (str, PathLike)):
        return not Path(images).is_dir()
    return isinstance(images, np.ndarray)


def iterate(images: Images) -> tuple[Iterator[Any], int | None]:
    """The images one by one, folders as the images in them, and their number if it is known.

    Iterators are read only as far as the result is.

    Raises:
        FileNotFoundError: A folder holds no image.
        TypeError: This is neither an image nor several.
    """
    if is_single(images):
        return iter([images]), 1
    if isinstance(images, (str, PathLike)):
        images = folder_images(images)
    if isinstance(images, Sequence):
        listed = [image for item in images for image in _expand(item)]
        return iter(listed), len(listed)
    if not isinstance(images, Iterable):
        raise TypeError(
            'The images must be a path, an array, a folder, or a list or an iterator of them, got '
            f'{type(images).__name__}.'
        )
    number = len(images) if isinstance(images, Sized) else None
    return (image for item in images for image in _expand(item)), number


def _expand(item: Any) -> Sequence[Any]:
    is_folder = isinstance(item, (str, PathLike)) and not is_single(item)
    return folder_images(item) if is_folder else [item]


def folder_images(folder: str | PathLike[str]) -> list[str]:
    """Paths of the images in a folder, sorted by name; folders in it are not entered.

    What has no suffix of an image is counted in the log.

    Raises:
        FileNotFoundError: There is no image in it.
    """
    files = sorted(path for path in Path(folder).iterdir() if path.is_file())
    images = [str(path) for path in files if path.suffix.lower() in SUFFIXES]
    others = [shown(path.name) for path in files if path.suffix.lower() not in SUFFIXES]
    if not images:
        raise FileNotFoundError(
            f'The folder {shown(folder)} holds no image: none of its {len(files)} files ends in '
            f'{", ".join(SUFFIXES)}.'
        )
    if others:
        listed = ', '.join(others[:MAX_LISTED]) + ', ...' * (len(others) > MAX_LISTED)
        print_log(
            f'{len(others)} files in {shown(folder)} are left out, which have no suffix of an '
            f'image: {listed}',
            logger='current',
            level=logging.WARNING,
        )
    return images


def path_of(image: Any) -> str | None:
    """The path of an image that is a file."""
    return fspath(image) if isinstance(image, (str, PathLike)) else None


def check_array(image: Any, name: str) -> NDArray[np.uint8]:
    """An image in memory as (H, W, 3), BGR.

    Args:
        image: uint8, of shape (H, W, 3) as BGR, (H, W, 4) as BGRA, of which the transparency is
            left out, or (H, W) or (H, W, 1) in grey.
        name: What to call it in messages.

    Raises:
        TypeError: This is no array.
        ValueError: The array has another shape or type, or no pixels.
    """
    if not isinstance(image, np.ndarray):
        kind = 'None, as OpenCV gives for a file it cannot read' if image is None else type(image)
        raise TypeError(f'{name} must be a path or an array (H, W, 3) of BGR, got {kind}.')
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ValueError(
            f'{name} must be an array (H, W, 3) of BGR, uint8 from 0 to 255, got shape '
            f'{image.shape} and {image.dtype}.'
        )
    if not image.size:
        raise ValueError(f'{name} has no pixels: its shape is {image.shape}.')
    channels = [0, 0, 0] if image.shape[2] == 1 else [0, 1, 2]
    return image if image.shape[2] == 3 else np.ascontiguousarray(image[..., channels])
