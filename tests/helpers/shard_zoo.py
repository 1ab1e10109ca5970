"""Tar shards of image-text pairs, sound and damaged, that the tests share."""

import io
import struct
import tarfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image


def jpeg(number: int, size=(40, 32)) -> bytes:
    """A small picture with noise in it, another for each number."""
    rng = np.random.default_rng(number)
    return encode(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8), 'JPEG')


def encode(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few kilobytes that announces, and holds, 10000 x 10000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    rows = b''.join(packer.compress(bytes(1 + 10000 // 8)) for _ in range(10000)) + packer.flush()
    header = struct.pack('>IIBBBBB', 10000, 10000, 1, 0, 0, 0, 0)
    signature = b'\x89PNG\r\n\x1a\n'
    return signature + chunk(b'IHDR', header) + chunk(b'IDAT', rows) + chunk(b'IEND', b'')


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, 'w') as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def sound(number: int) -> list[tuple[str, bytes]]:
    return [(f'{number:05d}.jpg', jpeg(number)), (f'{number:05d}.txt', b'picture %d' % number)]


def write_shards(folder: Path, shards: int, samples: int) -> str:
    """Sound shards, numbered through; returns their pattern."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        numbers = range(shard * samples, (shard + 1) * samples)
        members = [member for number in numbers for member in sound(number)]
        write_tar(folder / f'{shard:05d}.tar', members)
    return f'{folder}/{{00000..{shards - 1:05d}}}.tar'


DAMAGE = ['truncated', 'empty', 'no caption', 'no image', 'no picture', 'suffix', 'bomb', 'latin-1']


def write_damaged_shards(folder: Path, shards: int = 4, samples: int = 45):
    """Shards with a twentieth of their members damaged, in every way.

    Returns:
        The pattern, the keys of the sound samples, and the counts by reason.
    """
    folder.mkdir(parents=True, exist_ok=True)
    good, counts, kind = set(), Counter(), 0
    for shard in range(shards):
        members = []
        for number in range(shard * samples, (shard + 1) * samples):
            if number % 20 == 7:
                damaged, reason = damage(number, DAMAGE[kind % len(DAMAGE)])
                members += damaged
                counts[reason] += 1
                kind += 1
            else:
                members += sound(number)
                good.add(f'{number:05d}')
        path = write_tar(folder / f'{shard:05d}.tar', members)
        if shard == shards - 1:  # cut within the image of the last sample
            with tarfile.open(path) as archive:
                cut = archive.getmember(f'{number:05d}.jpg').offset_data + 100
            path.write_bytes(path.read_bytes()[:cut])
            good.discard(f'{number:05d}')
            counts['broken shard'] += 1
    return f'{folder}/{{00000..{shards - 1:05d}}}.tar', good, dict(counts)


def damage(number: int, kind: str) -> tuple[list[tuple[str, bytes]], str]:
    (image_name, image), (text_name, text) = sound(number)
    picture, caption = (image_name, image), (text_name, text)
    return {
        'truncated': ([(image_name, image[: len(image) // 2]), caption], 'broken image'),
        'empty': ([picture, (text_name, b' \n')], 'empty caption'),
        'no caption': ([picture], 'missing caption'),
        'no image': ([caption], 'missing image'),
        'no picture': ([(image_name, b'<html>not found</html>'), caption], 'broken image'),
        'suffix': ([(f'{number:05d}.dat', image), caption], 'missing image'),
        'bomb': ([(f'{number:05d}.png', bomb()), caption], 'too large'),
        'latin-1': ([picture, (text_name, 'un café'.encode('latin-1'))], 'caption not UTF-8'),
    }[kind]
