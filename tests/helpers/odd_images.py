"""Image files of all kinds, sound and damaged, that the tests share."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from shard_zoo import bomb

SOUND = {
    'one_pixel.png': (1, 1),
    'long.png': (20, 10000),
    'tall.png': (10000, 20),
    'grey.png': (30, 40),
    'bilevel.png': (30, 40),
    'grey_alpha.png': (30, 40),
    'grey_alpha.tif': (30, 40),
    'rgba.png': (30, 40),
    'palette.png': (30, 40),
    'grey16.png': (30, 40),
    'rgb16.png': (30, 40),
    'rgb16.tif': (30, 40),
    'cmyk.jpg': (30, 40),
    'cmyk.tif': (30, 40),
    'rotated.jpg': (40, 30),
    'animated.gif': (30, 40),
    'animated.webp': (30, 40),
}
"""Height and width that viewers show."""
BROKEN = {
    'truncated.jpg': 'cut off',
    'truncated.png': 'cut off',
    'truncated.gif': 'cut off',
    'truncated.webp': 'cannot be read as an image',
    'text.jpg': 'cannot be read as an image',
    'empty.png': 'it is empty',
    'bomb.png': '10000 x 10000 pixels, more than max_pixels',
}
"""What is said of each."""


def picture(height: int = 30, width: int = 40) -> Image.Image:
    """Orange on the left, blue on the right, green in the top left corner."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = (240, 120, 0), (0, 60, 200)
    pixels[: height // 4, : width // 4] = (0, 160, 80)
    return Image.fromarray(pixels)


def half_transparent(image: Image.Image) -> Image.Image:
    image.putalpha(128)
    return image


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def encode16(kind: str, grey: bool = False) -> bytes:
    """16 bits a channel, each of 257 times the value of 8 bits."""
    pixels = np.asarray(picture().convert('L')) if grey else np.asarray(picture())[..., ::-1]
    return cv2.imencode(kind, pixels.astype(np.uint16) * 257)[1].tobytes()


def rotated() -> bytes:
    """:func:`picture` on its side, with the orientation that turns it a quarter to the right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(picture(), 'JPEG', exif=exif, quality=95)


def odd_image(name: str) -> bytes:
    """The file of this name in :data:`SOUND` or :data:`BROKEN`."""
    image = picture()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    frames = dict(save_all=True, append_images=[Image.new('RGB', (40, 30), 'white')], loop=0)
    make = {
        'one_pixel.png': lambda: encode(picture(1, 1), 'PNG'),
        'long.png': lambda: encode(picture(20, 10000), 'PNG'),
        'tall.png': lambda: encode(picture(10000, 20), 'PNG'),
        'grey.png': lambda: encode(image.convert('L'), 'PNG'),
        'bilevel.png': lambda: encode(image.convert('1'), 'PNG'),
        'grey_alpha.png': lambda: encode(half_transparent(image.convert('L')), 'PNG'),
        'grey_alpha.tif': lambda: encode(half_transparent(image.convert('L')), 'TIFF'),
        'rgba.png': lambda: encode(half_transparent(image), 'PNG'),
        'palette.png': lambda: encode(image.quantize(8), 'PNG'),
        'grey16.png': lambda: encode16('.png', grey=True),
        'rgb16.png': lambda: encode16('.png'),
        'rgb16.tif': lambda: encode16('.tif'),
        'cmyk.jpg': lambda: encode(image.convert('CMYK'), 'JPEG', quality=95),
        'cmyk.tif': lambda: encode(image.convert('CMYK'), 'TIFF'),
        'rotated.jpg': rotated,
        'animated.gif': lambda: encode(image, 'GIF', **frames),
        'animated.webp': lambda: encode(image, 'WEBP', lossless=True, **frames),
        'truncated.jpg': lambda: encode(noise, 'JPEG')[:-500],
        'truncated.png': lambda: encode(noise, 'PNG')[:-500],
        'truncated.gif': lambda: encode(noise, 'GIF')[:-500],
        'truncated.webp': lambda: encode(noise, 'WEBP')[:-500],
        'text.jpg': lambda: b'<html>not found</html>',
        'empty.png': lambda: b'',
        'bomb.png': bomb,
    }
    return make[name]()


def write_odd_images(folder: Path) -> Path:
    """All of them, and a file that is no image."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*SOUND, *BROKEN):
        (folder / name).write_bytes(odd_image(name))
    (folder / 'notes.txt').write_text('no image')
    return folder
