"""The images that a user gives: paths, arrays, folders, lists and iterators of them."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set, Sized
from itertools import islice
from os import PathLike, fsdecode, fspath
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import PIL.Image
import torch
from mmengine.logging import print_log
from numpy.typing import NDArray
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from pgseg_mm.files.image_files import bgr_of
from pgseg_mm.messages import first_line, shown

SUFFIXES = (*(s for s in IMG_EXTENSIONS if s not in ('.pgm', '.ppm')), '.avif', '.gif', '.jfif')
"""Files of a folder that are taken for images: those of formats that are read."""
MAX_LISTED = 5

Image = str | PathLike[str] | NDArray[np.uint8] | bytes | BinaryIO | PIL.Image.Image | Tensor
Images = Image | Iterable[Image]
EXPECTED = 'a path, an array, bytes or an open file of an image, a PIL image, or a tensor (3, H, W)'


class BadEntry(NamedTuple):
    """An entry of a list that stands for no image."""

    name: str
    error: Exception


def is_single(images: Any) -> bool:
    """Whether this is one image, and not a folder, a list or an iterator."""
    if isinstance(images, (str, PathLike)):
        return not is_folder(images)
    if isinstance(images, (np.ndarray, bytes, bytearray, memoryview, PIL.Image.Image, Tensor)):
        return True
    return _is_file(images)


def _is_file(value: Any) -> bool:
    """Whether this is an open file; mmcv's videos have a ``read``, too, and frames by number."""
    return callable(getattr(value, 'read', None)) and not hasattr(type(value), '__getitem__')


def is_folder(path: str | PathLike[str]) -> bool:
    """Whether a path is that of a folder; names that no file can have are none."""
    try:
        return fspath(path) != '' and Path(path).is_dir()
    except (OSError, ValueError):  # too long, or with a zero byte
        return False


def iterate(images: Images) -> tuple[Iterator[Any], int | None]:
    """The images one by one, folders as the images in them, and their number if it is known.

    Iterators are read only as far as the result is. A folder in them that has no image is a
    :class:`BadEntry`.

    Raises:
        FileNotFoundError: A folder holds no image.
        TypeError: This is neither an image nor several.
    """
    if is_single(images):
        return iter([images]), 1
    if isinstance(images, (str, PathLike)):
        images = folder_images(images)
    if isinstance(images, (Mapping, Set)) or not isinstance(images, Iterable):
        raise TypeError(
            'The images must be a path, an array, a folder, bytes or an open file, a PIL image, a '
            'tensor (3, H, W), or a list or an iterator of them, got '
            f'{type(images).__name__}.'
        )
    if isinstance(images, Sequence):
        listed = [image for item in images for image in _expand(item)]
        return iter(listed), len(listed)
    number = len(images) if isinstance(images, Sized) else None
    return (image for item in images for image in _expand(item)), number


def in_batches(images: Images, batch_size: int) -> tuple[Iterator[list[Any]], int | None]:
    """The images in lists of ``batch_size``, and their number if it is known; see :func:`iterate`.

    Raises:
        Exception: As :func:`iterate`.
        TypeError: The size is no whole number.
        ValueError: The size is below 1.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)):
        raise TypeError(f'batch_size must be a whole number, got {batch_size!r}.')
    if batch_size < 1:
        raise ValueError(f'batch_size must be at least 1, got {batch_size}.')
    sources, number = iterate(images)
    return iter(lambda: list(islice(sources, batch_size)), []), number


def _expand(item: Any) -> Sequence[Any]:
    if not isinstance(item, (str, PathLike)) or not is_folder(item):
        return [item]
    try:
        return folder_images(item)
    except OSError as error:
        return [BadEntry(fsdecode(item), error)]


def as_image(image: Any, name: str, max_pixels: int) -> Any:
    """An image as a path, the bytes of a file, or what :func:`check_array` takes.

    Args:
        image: A path, an array, the content of a file, an open file, a PIL image, or a tensor of
            RGB, (3, H, W) or (1, H, W): uint8, or of floats from 0 to 1.
        name: What to call it in messages.
        max_pixels: Pixels of a PIL image at most, which may not have been decoded yet.

    Raises:
        OSError: The file cannot be read.
        TypeError: It is something else.
        ValueError: The path is empty, the PIL image is too large, or the tensor has another shape,
            or values out of range.
    """
    if isinstance(image, BadEntry):
        raise image.error
    if isinstance(image, (str, PathLike)):
        if fspath(image) in ('', b''):
            raise ValueError('The path of the image is empty.')
        return image
    if isinstance(image, np.ndarray) or image is None:
        return image
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, PIL.Image.Image):
        if image.width * image.height > max_pixels:
            raise ValueError(
                f'{name} has {image.width} x {image.height} pixels, more than {max_pixels}.'
            )
        try:
            return bgr_of(image)
        except MemoryError:
            raise
        except Exception as error:  # Pillow decodes it now, and each format fails in its own ways
            raise ValueError(f'{name} cannot be decoded: {first_line(error)}') from error
    if isinstance(image, Tensor):
        return _from_tensor(image, name)
    is_text = isinstance(image, io.TextIOBase)
    content = image.read() if _is_file(image) and not is_text else None
    if isinstance(content, bytes):
        return content
    if is_text or isinstance(content, str):
        raise TypeError(f"{name} is a file of text; open it in binary mode, as open(path, 'rb').")
    raise TypeError(f'{name} must be {EXPECTED}, got {type(image).__name__}.')


def _from_tensor(image: Tensor, name: str) -> NDArray[np.uint8]:
    """(H, W, 3) of BGR, or (H, W, 1)."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(
            f'{name} must be a tensor (3, H, W) of RGB or (1, H, W) of grey, got '
            f'{tuple(image.shape)}; give a batch as a list of its images.'
        )
    values = image.detach().cpu()
    if values.is_floating_point():
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError(
                f'{name} must have values from 0 to 1, as it is a tensor of {values.dtype}, got '
                f'{values.min().item():g} to {values.max().item():g}; give it before it is '
                'normalised.'
            )
        values = (values.float() * 255).round().to(torch.uint8)
    elif values.dtype != torch.uint8:
        raise ValueError(
            f'{name} must be a tensor of uint8 or of floats from 0 to 1, got {values.dtype}.'
        )
    return np.ascontiguousarray(values.permute(1, 2, 0).numpy()[..., ::-1])


def folder_images(folder: str | PathLike[str]) -> list[str]:
    """Paths of the images in a folder, sorted by name; folders in it are not entered.

    What has no suffix of an image is counted in the log.

    Raises:
        FileNotFoundError: There is no image in it.
    """
    # links that lead nowhere are read, and fail like other images
    files = sorted(p for p in Path(folder).iterdir() if p.is_file() or not p.exists())
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
    if isinstance(image, BadEntry):
        return image.name
    return fsdecode(image) if isinstance(image, (str, PathLike)) else None


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
