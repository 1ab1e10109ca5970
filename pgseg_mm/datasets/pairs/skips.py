"""Why image-text pairs are skipped, and the one way in which their images are loaded."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import cv2
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import Compose
from mmengine.logging import print_log

from pgseg_mm.errors import RunError
from pgseg_mm.files.image_files import (
    ImageHeader,
    TooManyPixels,
    UnreadableImage,
    read_header,
)
from pgseg_mm.files.reading import TooLongFile, UnusableFile, is_of_system, read_file
from pgseg_mm.messages import shown

BROKEN_IMAGE = 'broken image'
TOO_SMALL = 'too small'
TOO_LARGE = 'too large'
MISSING_IMAGE = 'missing image'
MISSING_CAPTION = 'missing caption'
EMPTY_CAPTION = 'empty caption'
CAPTION_NOT_UTF8 = 'caption not UTF-8'
BROKEN_JSON = 'broken JSON'
DROPPED = 'dropped by a transform'
BROKEN_SHARD = 'broken shard'
NO_PATH = 'no file path'
OUTSIDE = 'outside data_root'
TOO_MANY_BYTES = 'too many bytes'

REASONS = (
    BROKEN_IMAGE,
    TOO_SMALL,
    TOO_LARGE,
    MISSING_IMAGE,
    MISSING_CAPTION,
    EMPTY_CAPTION,
    CAPTION_NOT_UTF8,
    BROKEN_JSON,
    DROPPED,
    BROKEN_SHARD,
    NO_PATH,
    OUTSIDE,
    TOO_MANY_BYTES,
)
"""All reasons for which a pair, or the rest of a shard, is skipped."""

DECODE_ERRORS = (AssertionError, AttributeError, OSError, SyntaxError, cv2.error)
"""What mmcv's loading raises for bytes that are no image, depending on its backend and version."""


class UnusableSample(RunError):
    """A pair that cannot be used, or a shard that cannot be read on.

    Args:
        reason: One of :data:`REASONS`.
        message: A sentence that names what is wrong and where.
    """

    def __init__(self, reason: str, message: str | None = None) -> None:
        if message is None:  # a worker of torch's loader raises it by its text alone
            reason, message = '', reason
        super().__init__(message)
        self.reason = reason
        self.message = str(self)

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.message)


class SkipCounter:
    """Counts what is skipped; the first of each source and reason in a process is also logged."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}
        self._logged: set[tuple[str, str]] = set()

    def add(self, source: str, fault: UnusableSample) -> None:
        """Count one fault of a source."""
        self._counts.setdefault(source, Counter())[fault.reason] += 1
        if (source, fault.reason) not in self._logged:
            self._logged.add((source, fault.reason))
            print_log(
                f'Skipped: {fault} ({fault.reason}; further ones are counted, not logged.)',
                logger='current',
                level=logging.WARNING,
            )

    def counts(self) -> dict[str, dict[str, int]]:
        """For each source and reason, how many were counted since the last :meth:`clear`."""
        return {source: dict(reasons) for source, reasons in self._counts.items()}

    def clear(self) -> None:
        """Begin counting anew; what was logged is remembered."""
        self._counts = {}


def describe_counts(counts: Mapping[str, int]) -> str:
    """Such as '3 broken image, 1 too small'."""
    return ', '.join(f'{number} {reason}' for reason, number in counts.items()) or 'none'


def check_pixel_limits(min_pixels: int, max_pixels: int) -> None:
    """Refuse limits that leave no image.

    Raises:
        ValueError: ``min_pixels`` is negative or above ``max_pixels``.
    """
    if not 0 <= min_pixels <= max_pixels:
        raise ValueError(
            f'min_pixels is {min_pixels} and max_pixels is {max_pixels}; '
            'expected 0 <= min_pixels <= max_pixels.'
        )


def check_size(image: bytes, name: str, min_pixels: int, max_pixels: int) -> ImageHeader:
    """Read the size of an image from its header, without decoding it, and hold it to the limits.

    Args:
        image: The image's file.
        name: What to call it in messages.
        min_pixels: Smallest width times height.
        max_pixels: Largest width times height.

    Returns:
        The header.

    Raises:
        UnusableSample: The bytes do not begin as an image does, or the size is out of the limits.
    """
    if not image:
        raise UnusableSample(BROKEN_IMAGE, f'{name} cannot be read as an image: it is empty.')
    try:
        header = read_header(image, name, max_pixels)
    except TooManyPixels as error:
        raise UnusableSample(TOO_LARGE, str(error)) from error
    except UnreadableImage as error:
        raise UnusableSample(BROKEN_IMAGE, f'{name} cannot be read as an image.') from error
    width, height = header.width, header.height
    pixels = width * height
    if pixels < min_pixels:
        raise UnusableSample(
            TOO_SMALL, f'{name} has {width} x {height} pixels, less than min_pixels={min_pixels}.'
        )
    return header


def run_pipeline(
    pipeline: Compose, results: dict[str, Any], name: str, min_pixels: int, max_pixels: int
) -> Any:
    """Run a pipeline whose image may be broken, too small or too large.

    Args:
        pipeline: Transforms; those that load an image are mmcv's ``LoadImageFromFile`` or derived
            from it.
        results: What goes in: ``img_path``, or the file itself as ``img_bytes``.
        name: What to call the image in messages.
        min_pixels: Smallest width times height.
        max_pixels: Largest width times height.

    Returns:
        What the last transform returns.

    Raises:
        FileAccessError: The system cannot read the image, several times where that may pass.
        UnusableSample: The image does not exist, is broken, or out of the limits, or a transform
            returned None.
    """
    data: Any = results
    for transform in pipeline.transforms:
        if isinstance(transform, LoadImageFromFile):
            data = _load_image(transform, data, name, min_pixels, max_pixels)
        else:
            data = transform(data)
        if data is None:
            raise UnusableSample(DROPPED, f'{type(transform).__name__} dropped {name}.')
    return data


def _load_image(
    load: LoadImageFromFile, results: dict[str, Any], name: str, min_pixels: int, max_pixels: int
) -> Any:
    if 'img_bytes' not in results:
        results['img_bytes'] = read_image_bytes(results['img_path'], load.backend_args, name)
    header = check_size(results['img_bytes'], name, min_pixels, max_pixels)
    results.update(img_header=header, max_pixels=max_pixels)
    try:
        loaded = load(results)
    except DECODE_ERRORS as error:
        if is_of_system(error):
            raise
        why = f': it {shown(error.reason)}' if isinstance(error, UnreadableImage) else ''
        raise UnusableSample(BROKEN_IMAGE, f'{name} cannot be read as an image{why}.') from error
    if loaded is not None:
        for key in ('img_bytes', 'img_header', 'max_pixels'):
            loaded.pop(key, None)
    return loaded


def suffix_of(image: bytes, suffix: str) -> str:
    """Suffix of an image that has no file: that of its name, or else of its format."""
    if suffix:
        return suffix.lower().lstrip('.')
    starts = {b'\xff\xd8': 'jpg', b'\x89PNG': 'png', b'GIF8': 'gif', b'BM': 'bmp', b'RIFF': 'webp'}
    starts |= {b'II*\0': 'tif', b'MM\0*': 'tif'}
    return next((kind for start, kind in starts.items() if image.startswith(start)), '')


def read_image_bytes(path: str, backend_args: dict[str, Any] | None, name: str) -> bytes:
    """The file of an image.

    Args:
        path: Where it is.
        backend_args: Arguments of mmengine's file backend.
        name: What to call it in messages.

    Raises:
        FileAccessError: The system cannot read it, several times where that may pass.
        UnusableSample: It does not exist, or is no regular file, or too large.
    """
    try:
        return read_file(path, name, backend_args)
    except FileNotFoundError as error:
        raise UnusableSample(MISSING_IMAGE, f'{name} does not exist.') from error
    except UnusableFile as error:
        reason = TOO_MANY_BYTES if isinstance(error, TooLongFile) else BROKEN_IMAGE
        raise UnusableSample(
            reason, f'{name} cannot be read as an image: it {error.reason}.'
        ) from error
