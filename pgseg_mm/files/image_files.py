"""The one place where image files are opened: a list of formats, and limits before any decoder."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from os import PathLike, fspath
from typing import Any, NamedTuple, NoReturn

import cv2
import mmcv
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pgseg_mm import limits
from pgseg_mm.integration import without_warnings

from .reading import UnusableFile, read_file

FORMATS = ('JPEG', 'MPO', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'AVIF')
"""Formats that are read; MPO is the JPEG of phones with a second picture. AVIF needs a Pillow that
has it. HEIC is none of them: Pillow has no decoder of its own."""
BACKEND_FORMATS = {
    'cv2': ('JPEG', 'MPO', 'PNG'),
    'turbojpeg': ('JPEG', 'MPO'),
}
"""What decoders other than Pillow are given. tifffile gets nothing: mmcv hands on what it reads,
whatever its order of colours, depth and pages. OpenCV has more, but only of these it is known that
it and Pillow, by which the size is checked, see the same size."""
START_OF_IMAGE, START_OF_SCAN, END_OF_IMAGE = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'
NEXT_MARKER = re.compile(rb'\xff[^\x00\xff\xd0-\xd7]')
"""A marker that ends a scan: in its data 0xFF stands before a zero or the number of a restart."""
MAX_SEGMENTS = 10_000
"""Of a JPEG image, which has some dozens; a hostile file could have one every four bytes."""
PNG_SIZE = slice(16, 24)
TILE_WIDTH, TILE_LENGTH = 322, 323
BAND_PIXELS = 2**22
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an image is turned, by its orientation in EXIF."""
QUARTER_TURNS = [TURNS[orientation] for orientation in (5, 6, 7, 8)]
"""Those by which width and height change places."""


class UnreadableImage(OSError):
    """An image that cannot be decoded.

    Args:
        where: The file.
        reason: What the file is or has, such as 'is cut off'.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f'{where} {reason}.')
        self.where = where
        self.reason = reason

    def __reduce__(self) -> tuple:
        return type(self), (self.where, self.reason)


class TooManyPixels(UnreadableImage):
    """An image whose header says that it is larger than the limit; nothing of it was decoded."""


class ImageHeader(NamedTuple):
    """What the beginning of an image's file says."""

    format: str
    """One of :data:`FORMATS`."""
    width: int
    height: int


@cache
def known_formats() -> tuple[str, ...]:
    """Those of :data:`FORMATS` that this Pillow has; its reader of JPEG is that of MPO, too."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def read_image_file(
    path: str | PathLike[str], backend_args: Mapping[str, Any] | None = None
) -> bytes:
    """The content of an image's file.

    Args:
        path: Where it is.
        backend_args: Arguments of mmengine's file backend, for files that are not on the disk.

    Raises:
        UnreadableImage: It is no regular file, or has more than ``MAX_IMAGE_BYTES``.
        FileAccessError: The system cannot read it.
        FileNotFoundError: There is no such file.
    """
    try:
        return read_file(fspath(path), fspath(path), backend_args, limits.MAX_IMAGE_BYTES)
    except UnusableFile as error:
        raise UnreadableImage(fspath(path), error.reason) from error


def read_header(
    content: bytes, where: str, max_pixels: int | None = None, as_turned: bool = False
) -> ImageHeader:
    """Format and size of an image, without decoding it.

    Args:
        content: The file.
        where: What to call it in messages.
        max_pixels: Width times height at most, ``MAX_IMAGE_PIXELS`` by default.
        as_turned: Whether the size is that of the image as its EXIF orientation turns it.

    Raises:
        TooManyPixels: The image is larger than that.
        UnreadableImage: The file is empty, cut off, or of none of the formats.
    """
    with _opened(content, where, max_pixels) as image:
        on_its_side = as_turned and _turn(image) in QUARTER_TURNS
        size = image.size[::-1] if on_its_side else image.size
        return ImageHeader(image.format or '', *size)


def open_image(
    source: bytes | str | PathLike[str], where: str | None = None, max_pixels: int | None = None
) -> Image.Image:
    """A Pillow image, decoded, with the mode that the file has.

    Args:
        source: Content or path of the file.
        where: What to call it in messages; by default its path.
        max_pixels: Width times height at most, ``MAX_IMAGE_PIXELS`` by default.

    Raises:
        TooManyPixels: The image is larger than that; nothing was decoded.
        UnreadableImage: The file is empty, cut off, damaged, or of none of the formats.
        OSError: The system cannot read the file.
    """
    if not isinstance(source, bytes):
        where = where or fspath(source)
        source = read_image_file(source)
    where = where or 'The image'
    _refuse_many_scans(source, where)
    with _opened(source, where, max_pixels) as image:
        image.load()
        return image.copy()


def decode_image(
    content: bytes,
    where: str = 'The image',
    flag: str = 'color',
    backend: str = 'cv2',
    max_pixels: int | None = None,
    header: ImageHeader | None = None,
) -> NDArray[Any]:
    """An image as an array, as ``mmcv.imfrombytes`` returns it.

    What the backend cannot decode, or is not given, is left to Pillow. Truncated JPEG files are
    refused with any backend: OpenCV before 5 fills what is missing with grey.

    Args:
        content: The file.
        where: What to call it in messages.
        flag: ``'color'``, ``'grayscale'``, ``'unchanged'``, ``'color_ignore_orientation'`` or
            ``'grayscale_ignore_orientation'``.
        backend: ``'cv2'``, ``'pillow'``, ``'turbojpeg'`` or ``'tifffile'``, which is Pillow.
        max_pixels: Width times height at most, ``MAX_IMAGE_PIXELS`` by default.
        header: What :func:`read_header` returned for it and ``max_pixels``, if it was read before.

    Returns:
        (H, W, 3), BGR, uint8; (H, W) if ``flag`` asks for grey; as the file has it for
        ``'unchanged'``.

    Raises:
        TooManyPixels: The image is larger than that; nothing was decoded.
        UnreadableImage: The file is empty, cut off, damaged, or of none of the formats.
    """
    if is_truncated_jpeg(content):
        raise UnreadableImage(where, 'is cut off: the end of the JPEG image is missing')
    _refuse_many_scans(content, where)
    header = header or read_header(content, where, max_pixels)
    if header.format in BACKEND_FORMATS.get(backend, ()):
        try:
            image = mmcv.imfrombytes(content, flag=flag, backend=backend)
        except (cv2.error, OSError, ValueError, RuntimeError):
            image = None  # Pillow says what is wrong, or can do more
        if image is not None and image.size:
            return image
    with _opened(content, where, max_pixels) as opened:
        return _to_array(opened, flag)


def is_truncated_jpeg(image: bytes) -> bool:
    """Whether a file is a JPEG image without an end behind the last scan.

    Args:
        image: The file, of any format.
    """
    if not image.startswith(START_OF_IMAGE):
        return False
    end = image.rfind(END_OF_IMAGE)  # an embedded preview has one as well, before the scans
    if end < 0:
        return True
    # what lies behind the image, as the film of a phone's picture, may look like a scan
    return image.find(START_OF_SCAN, end) >= 0 and not _has_end(image)


def _has_end(image: bytes) -> bool:
    """Whether a JPEG image ends behind a scan, by its segments from the first on."""
    markers = list(_markers(image))
    return markers[-1:] == [END_OF_IMAGE] and START_OF_SCAN in markers


def _markers(image: bytes) -> Iterator[bytes]:
    """Markers of a JPEG image from its first segment to its end, or to where it is damaged."""
    place, in_scan = len(START_OF_IMAGE), False
    for _ in range(MAX_SEGMENTS):
        found = NEXT_MARKER.search(image, place)
        # between segments there is nothing but filling, and within a scan anything
        if found is None or not in_scan and image[place : found.start()].strip(b'\xff'):
            return
        yield found.group()
        if found.group() == END_OF_IMAGE:
            return
        in_scan = found.group() == START_OF_SCAN
        place = found.end() + int.from_bytes(image[found.end() : found.end() + 2], 'big')


def _refuse_many_scans(image: bytes, where: str) -> None:
    """Refuse a JPEG image of so many scans that decoding it would take minutes."""
    if not image.startswith(START_OF_IMAGE) or image.count(START_OF_SCAN) <= limits.MAX_JPEG_SCANS:
        return
    # previews within, and the film behind a phone's picture, may look like scans
    scans = sum(marker == START_OF_SCAN for marker in _markers(image))
    if scans > limits.MAX_JPEG_SCANS:
        raise UnreadableImage(where, f'has {scans} scans, more than {limits.MAX_JPEG_SCANS}')


@contextmanager
def _opened(content: bytes, where: str, max_pixels: int | None) -> Iterator[Image.Image]:
    """An image whose header has been read and held to the limits."""
    if not content:
        raise UnreadableImage(where, 'is empty')
    # Pillow warns of large images and of damaged meta data; the limits are those here.
    with without_warnings():
        try:
            with Image.open(io.BytesIO(content), formats=known_formats()) as image:
                _check_size(image, content, where, max_pixels)
                yield image
        except (MemoryError, UnreadableImage):
            raise
        except Image.DecompressionBombError as error:
            raise TooManyPixels(where, f'is too large: {error}') from error
        except Exception as error:  # each of Pillow's formats fails in its own ways
            _refuse(where, error)


def _refuse(where: str, error: Exception) -> NoReturn:
    if isinstance(error, Image.UnidentifiedImageError):
        names = ', '.join(known_formats())
        reason = f'cannot be decoded, or is cut off: cannot identify one of the formats {names}'
    else:
        what = str(error)[:200] or type(error).__name__
        reason = f'cannot be decoded, or is cut off: {what}'
    raise UnreadableImage(where, reason) from error


def _check_size(image: Image.Image, content: bytes, where: str, max_pixels: int | None) -> None:
    limit = limits.MAX_IMAGE_PIXELS if max_pixels is None else max_pixels
    limit = int(limit * limits.SHARE_OF_PIXELS.get(image.format or '', 1))
    width, height = image.size
    if width * height > limit:
        raise TooManyPixels(where, f'has {width} x {height} pixels, more than max_pixels={limit}')
    if image.format == 'PNG':
        # Pillow believes the last header, OpenCV the first one
        first = content[PNG_SIZE]
        if (int.from_bytes(first[:4], 'big'), int.from_bytes(first[4:], 'big')) != image.size:
            raise UnreadableImage(where, 'is damaged: it has two headers, of different sizes')
    if image.format == 'TIFF':
        tags = image.tag_v2  # type: ignore[attr-defined]
        tile = tags.get(TILE_WIDTH, 1) * tags.get(TILE_LENGTH, 1)
        if tile > max(limits.MAX_TILE_PIXELS, 2 * width * height):
            raise UnreadableImage(where, f'is damaged: a tile has {tile} pixels, the image fewer')


def _to_array(image: Image.Image, flag: str) -> NDArray[Any]:
    if flag == 'unchanged':
        array = np.array(image)
        if array.ndim == 3 and array.shape[2] >= 3:
            array[..., :3] = array[..., 2::-1]
        return array
    if flag in ('color', 'grayscale'):
        image = upright(image)
    if flag.startswith('grayscale'):
        return np.array(_to_rgb(image, _bits(image)).convert('L'))
    return _to_bgr(image)


def bgr_of(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) of BGR of an image that was opened elsewhere, as its file would be read.

    Raises:
        ValueError: None of its numbers is known to be white, or they have more than 16 bits.
    """
    return _to_bgr(upright(image))


def _to_bgr(image: Image.Image) -> NDArray[np.uint8]:
    width, height = image.size
    bits = _bits(image)
    array = np.empty((height, width, 3), np.uint8)
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):  # at once, a large image would need twice the memory
        bottom = min(height, top + rows)
        part = image if rows >= height else image.crop((0, top, width, bottom))
        cv2.cvtColor(np.asarray(_to_rgb(part, bits)), cv2.COLOR_RGB2BGR, dst=array[top:bottom])
    return array


def _bits(image: Image.Image) -> int:
    """Bits of the numbers of an image, by which white is known: 8 or 16."""
    if image.mode == 'F':
        raise ValueError('its numbers are floating-point ones, of which none is known to be white')
    if image.mode.startswith('I;16'):
        return 16
    if image.mode != 'I':
        return 8
    extrema: Any = image.getextrema()  # of 32 bits
    lowest, highest = extrema
    if not 0 <= lowest <= highest < 2**16:
        raise ValueError('its numbers have more than 16 bits')
    return 16 if highest > 255 else 8


def _to_rgb(image: Image.Image, bits: int) -> Image.Image:
    if image.mode.startswith('I'):  # Pillow would clip them to 8 bits
        image = Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
    return image if image.mode == 'RGB' else image.convert('RGB')


def upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation turns it, or as it is where that cannot be read.

    Pillow's ``exif_transpose`` writes the other meta data anew, which fails if they are damaged.
    """
    image.load()
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # damaged meta data fails in many ways, and the pixels are sound
        return None
    return TURNS.get(orientation) if isinstance(orientation, int) else None
