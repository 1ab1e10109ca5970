"""Hostile images: sound ones of all formats, damaged in many ways, and what only looks like one."""

import io
import itertools
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from pgseg_mm import limits
from pgseg_mm.apis import PGSegInferencer
from pgseg_mm.datasets.pairs.skips import UnusableSample, check_size
from pgseg_mm.datasets.transforms import DecodeImage
from pgseg_mm.files.image_files import UnreadableImage, decode_image, open_image

KNOWN = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'AVIF', 'MPO')
FOREIGN = ('PPM', 'EPS', 'DDS', 'IM', 'ICO', 'ICNS', 'JPEG2000', 'PCX', 'SGI', 'TGA', 'SPIDER',
           'XBM', 'MSP', 'QOI', 'BLP', 'DIB')  # fmt: skip
MODES = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'I;16', 'I', 'F', 'YCbCr')
POSTSCRIPT = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n'
TEXTS = (b'', b'<html>404</html>', b'{"error": 1}', b'version https://git-lfs.github.com/spec/v1\n',
         POSTSCRIPT, b'\xc5\xd0\xd3\xc6' + bytes(28) + POSTSCRIPT, b'P6 9999999 9999999 255\n',
         b'GIMP', b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff\xd9', b'II*\x00',
         b'RIFF\xff\xff\xff\xffWEBP', b'#?RADIANCE\n\n-Y 9999 +X 9999\n',
         b'Pf\n9999 9999\n-1.0\n')  # fmt: skip
TIFF_TAGS = (256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 339, 530)
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
Mutation = Callable[[bytes, random.Random], bytes]


class NotRead(Exception):
    """The right answer to what is no image in any way."""


REFUSALS = (NotRead,)


@cache
def sound(kind: str, mode: str, side: int) -> bytes:
    """A sound image of a format, or nothing where the format lacks the mode."""
    rng = np.random.default_rng(side)
    pixels = rng.integers(0, 255, (side, side + 7, 3), np.uint8)
    pixels[: side // 2] = (200, 20, 90)
    image = Image.fromarray(pixels)
    image = image.convert('L').convert(mode) if mode in ('I;16', 'I', 'F') else image.convert(mode)
    options: dict = {}
    if kind in ('GIF', 'WEBP', 'PNG', 'MPO') and side % 2:
        options = dict(save_all=True, append_images=[image.rotate(90)])
    if kind in ('JPEG', 'PNG', 'WEBP', 'AVIF', 'TIFF'):
        exif = Image.Exif()
        exif[0x0112] = 6
        options |= dict(exif=exif.tobytes()) if kind != 'TIFF' else {}
        options |= dict(icc_profile=bytes(range(200)))
    if kind == 'TIFF':
        # Pillow crashes where it is asked for fax codes of anything but black and white
        kinds = [None, 'tiff_lzw', 'tiff_deflate', 'packbits']
        kinds += {'1': ['group3', 'group4'], 'L': ['jpeg'], 'RGB': ['jpeg']}.get(mode, [])
        options |= dict(compression=kinds[side % len(kinds)])
    file = io.BytesIO()
    try:
        image.save(file, kind, **options)
    except (OSError, ValueError, KeyError, RuntimeError):
        return b''
    return file.getvalue()


def flip(content: bytes, rng: random.Random) -> bytes:
    """Other bits in some places."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_header(content: bytes, rng: random.Random) -> bytes:
    """Other bytes in the beginning."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 4))):
        changed[rng.randrange(min(120, len(changed)))] = rng.randrange(256)
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    """The beginning of it."""
    return content[: rng.randrange(len(content))]


def drop(content: bytes, rng: random.Random) -> bytes:
    """Without a part."""
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.randrange(1, 64) :]


def repeat(content: bytes, rng: random.Random) -> bytes:
    """With a part twice, or many times."""
    start = rng.randrange(len(content))
    part = content[start : start + rng.randrange(1, 300)]
    return content[:start] + part * rng.choice((2, 3, 200)) + content[start:]


def lie(content: bytes, rng: random.Random) -> bytes:
    """With an extreme number somewhere in the beginning."""
    size, order = rng.choice((1, 2, 4)), rng.choice('<>')
    value = rng.choice(EXTREMES) % 256**size
    start = rng.randrange(max(1, min(400, len(content)) - size))
    number = struct.pack(order + {1: 'B', 2: 'H', 4: 'I'}[size], value)
    return content[:start] + number + content[start + size :]


def join(content: bytes, rng: random.Random) -> bytes:
    """Two files in one."""
    other = sound(rng.choice(KNOWN), 'RGB', rng.choice((16, 33))) or POSTSCRIPT
    start = rng.randrange(len(content))
    return rng.choice((content + other, other + content, content[:start] + other[start:]))


def dress(content: bytes, rng: random.Random) -> bytes:
    """Another format's first bytes before it, or in their place."""
    first = rng.choice([text for text in TEXTS if text])
    return first + content[rng.choice((0, len(first))) :]


def png_lie(content: bytes, rng: random.Random) -> bytes:
    """A PNG with a size that is not its own, and right checksums."""
    width, height = rng.choice(EXTREMES[1:]), rng.choice(EXTREMES[1:])
    head = struct.pack('>IIBBBBB', width, height, rng.choice((1, 8, 16)), rng.choice((0, 2, 3, 6)),
                       0, 0, rng.choice((0, 1)))  # fmt: skip
    data = zlib.compress(bytes(rng.choice((10, 10**6))))
    chunks = [chunk(b'IHDR', head), chunk(b'IDAT', data), chunk(b'IEND', b'')]
    if rng.random() < 0.3:
        chunks.insert(
            rng.choice((0, 1)), chunk(b'IHDR', struct.pack('>IIBBBBB', 4, 4, 8, 2, 0, 0, 0))
        )
    if rng.random() < 0.3:
        text = rng.choice((b'zTXt', b'iCCP', b'iTXt', b'eXIf', b'acTL', b'fcTL'))
        chunks.insert(1, chunk(text, b'a\x00\x00' + zlib.compress(bytes(10**6))))
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunks)


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


def tiff_lie(content: bytes, rng: random.Random) -> bytes:
    """A TIFF of tags that do not fit each other."""
    packing = rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 32773, 34712, 50000, 34925))
    base = {256: 8, 257: 8, 258: 8, 259: packing,
            262: rng.choice((0, 1, 2, 3, 5, 6)), 273: 200, 277: rng.choice((1, 3, 4)), 278: 8,
            279: rng.choice((64, 192, 2**31))}  # fmt: skip
    if rng.random() < 0.4:
        base |= {322: rng.choice(EXTREMES), 323: rng.choice(EXTREMES), 324: 200, 325: 64}
    for _ in range(rng.choice((0, 1, 2, 3))):
        base[rng.choice(TIFF_TAGS)] = rng.choice(EXTREMES)
    entries = b''.join(
        struct.pack('<HHII', tag, rng.choice((3, 4, 4, 4)), rng.choice((1, 1, 1, 3)), value)
        for tag, value in sorted(base.items())
    )
    head = (
        b'II*\x00'
        + struct.pack('<IH', 8, len(base))
        + entries
        + struct.pack('<I', rng.choice((0, 8)))
    )
    return head.ljust(200, b'\x00') + zlib.compress(bytes(10**5)) + bytes(64)


def gif_lie(content: bytes, rng: random.Random) -> bytes:
    """A GIF whose frame is larger than its screen."""

    def size() -> int:
        return rng.choice(EXTREMES) % 65536

    head = b'GIF89a' + struct.pack('<HHBBB', size(), size(), 0x80, 0, 0) + bytes(6)
    frame = b',' + struct.pack('<HHHHB', size(), size(), size(), size(), 0)
    return head + frame + b'\x02\x02\x4c\x01\x00;'


def bmp_lie(content: bytes, rng: random.Random) -> bytes:
    """A BMP whose header says what is not so."""
    width, height = rng.choice(EXTREMES) % 2**31, rng.choice((1, -1, 8, 65535))
    bits, packing = rng.choice((1, 4, 8, 16, 24, 32, 7)), rng.choice((0, 1, 2, 3, 9))
    sizes = rng.choice(EXTREMES), 0, 0, rng.choice(EXTREMES), 0
    info = struct.pack('<IiiHHIIiiII', 40, width, height, 1, bits, packing, *sizes)
    return b'BM' + struct.pack('<IHHI', 100, 0, 0, rng.choice((54, 2**32 - 1))) + info + bytes(99)


def webp_lie(content: bytes, rng: random.Random) -> bytes:
    """A WebP with a canvas of any size."""
    inner = sound('WEBP', 'RGB', 16)[12:]
    canvas = struct.pack('<I', rng.choice((15, 9999, 16383, 2**24 - 1)))[:3]
    extended = b'VP8X' + struct.pack('<I', 10) + bytes((rng.randrange(256), 0, 0, 0)) + canvas * 2
    body = b'WEBP' + extended + inner
    return b'RIFF' + struct.pack('<I', len(body)) + body


def jpeg_lie(content: bytes, rng: random.Random) -> bytes:
    """A JPEG with another size in its frame header, or with a second one."""
    content = sound('JPEG', rng.choice(('RGB', 'L', 'CMYK')), rng.choice((16, 33)))
    start = content.find(b'\xff\xc0')
    if rng.random() < 0.3:  # a progressive one, of which libjpeg keeps all coefficients
        content = content[:start] + b'\xff\xc2' + content[start + 2 :]
    size = struct.pack('>HH', rng.choice(EXTREMES) % 65536, rng.choice(EXTREMES) % 65536)
    frame = content[start : start + 5] + size + content[start + 9 : start + 19]
    if rng.random() < 0.5:
        return content[:start] + frame + content[start + 19 :]
    return content[:start] + frame + content[start:]


MUTATIONS: tuple[Mutation, ...] = (flip, flip_header, cut, drop, repeat, lie, join, dress)
LIES: tuple[Mutation, ...] = (png_lie, tiff_lie, gif_lie, bmp_lie, webp_lie, jpeg_lie)


def cases(seed: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of hostile files, without an end."""
    rng = random.Random(seed)
    for number, text in enumerate(TEXTS):
        yield f'text {number}', text
    for kind in FOREIGN:
        yield kind, sound(kind, 'RGB', 16) or sound(kind, 'P', 16)
    for number in itertools.count():
        if rng.random() < 0.3:
            change = rng.choice(LIES)
            yield f'{number} {change.__name__}', change(b'', rng)
            continue
        kind = rng.choice(KNOWN if rng.random() < 0.9 else FOREIGN)
        content = sound(kind, rng.choice(MODES), rng.choice((1, 16, 17, 33, 64, 65)))
        names = [kind]
        for _ in range(rng.choice((1, 1, 2, 3))):
            change = rng.choice(MUTATIONS)
            if content:
                content = change(content, rng)
                names.append(change.__name__)
        yield ' '.join([str(number), *names]), content


@cache
def inferencer() -> PGSegInferencer:
    """One of the tiny model, which only reads."""
    from model_zoo import tiny_model

    return PGSegInferencer(tiny_model())


def prepare() -> None:
    """Import and make what the attempts use."""
    read_in_all_ways(sound('PNG', 'RGB', 16))


def attempt(path: str) -> None:
    """Read a file as an image; see :func:`read_in_all_ways`.

    Raises:
        NotRead: It could be read in no way.
    """
    if not read_in_all_ways(Path(path).read_bytes()):
        raise NotRead


def read_in_all_ways(content: bytes) -> int:
    """Read an image in each public way.

    Returns:
        In how many ways it could be read.

    Raises:
        Exception: Whatever is raised that is not the error of an image that cannot be read.
    """
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    ways: list[Callable[[], object]] = [
        lambda: decode_image(content, 'it'),
        lambda: decode_image(content, 'it', flag='unchanged', backend='pillow'),
        lambda: decode_image(content, 'it', flag='grayscale'),
        lambda: open_image(content, 'it'),
        lambda: DecodeImage(imdecode_backend='pillow')(dict(img_bytes=content)),
        lambda: check_size(content, 'it', 0, limits.MAX_PAIR_PIXELS),
    ]
    read = 0
    for way in ways:
        try:
            way()
            read += 1
        except (UnreadableImage, UnusableSample) as error:
            assert len(str(error)) < 600, str(error)[:200]
    try:
        inferencer().read(content, 'it')
        read += 1
    except ValueError as error:  # what the inferencer promises
        assert isinstance(error.__cause__, UnusableSample), repr(error)
    return read
