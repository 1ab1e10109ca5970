"""What a stranger's image can do wherever images and label maps are read: be read, or refused."""

import io
import itertools
import random
import re
import stat
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from mmengine.dataset import Compose
from mmseg.registry import TRANSFORMS
from PIL import Image, ImageOps

from fuzz import fuzz_images
from model_zoo import tiny_model
from odd_images import SOUND, encode, odd_image, picture
from pgseg_mm import limits
from pgseg_mm.apis import PGSegInferencer
from pgseg_mm.datasets.pairs.skips import TOO_LARGE, UnusableSample, run_pipeline
from pgseg_mm.files.image_files import (
    FORMATS,
    TooManyPixels,
    UnreadableImage,
    decode_image,
    open_image,
    read_header,
    read_image_file,
)

ROOT = Path(__file__).parents[2]
POSTSCRIPT = fuzz_images.POSTSCRIPT
LABELS = dict(seg_fields=[], reduce_zero_label=False)


@pytest.fixture
def converters(monkeypatch):
    """The converters of label maps, by their names."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'dataset_converters'))
    return lambda name: __import__(name)


def load(kind: str, **options):
    """A transform of mmseg's scope, as configs name it."""
    return TRANSFORMS.build(dict(type=kind, **options))


def ways(path: Path, converters) -> dict:
    """Everything that reads an image or a label map."""
    image, labels = dict(img_path=str(path)), dict(LABELS, seg_map_path=str(path))
    convert = converters('coco_object').convert_map
    return {
        'image': lambda: load('LoadImageFromFile')(dict(image)),
        'image by Pillow': lambda: load('LoadImageFromFile', imdecode_backend='pillow')(
            dict(image)
        ),
        "mmseg's inference_model, after an array": lambda: load('LoadImageFromNDArray')(
            dict(image)
        ),
        'shard': lambda: load('DecodeImage')(dict(img_bytes=path.read_bytes())),
        'pair': lambda: run_pipeline(
            Compose([load('LoadImageFromFile')]), dict(image), 'it', 0, 2**26
        ),
        'label map': lambda: load('LoadAnnotations')(dict(labels, seg_fields=[])),
        'label map by OpenCV': lambda: load('LoadAnnotations', imdecode_backend='cv2')(
            dict(labels, seg_fields=[])
        ),
        'wide label map': lambda: load('LoadWideAnnotations')(dict(labels, seg_fields=[])),
        'inferencer': lambda: PGSegInferencer(tiny_model())(path, ['dog', 'cat']),
        'converter': lambda: convert(path, path.parent),
    }


NAMES = tuple(ways(Path(), lambda name: type(name, (), dict(convert_map=None))))


@pytest.mark.parametrize('way', NAMES)
@pytest.mark.parametrize('kind', ['PostScript', 'in an envelope'])
def test_postscript_never_starts_ghostscript(tmp_path, monkeypatch, converters, way, kind):
    marker, gs = tmp_path / 'started', tmp_path / 'bin' / 'gs'
    gs.parent.mkdir()
    gs.write_text(f'#!/bin/sh\ntouch {marker}\n')
    gs.chmod(gs.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv('PATH', str(gs.parent), prepend=':')
    path = tmp_path / 'photo.jpg'
    envelope = b'\xc5\xd0\xd3\xc6' + struct.pack('<II', 32, len(POSTSCRIPT)) + bytes(20)
    path.write_bytes(POSTSCRIPT if kind == 'PostScript' else envelope + POSTSCRIPT)
    with pytest.raises((UnreadableImage, UnusableSample, ValueError)) as raised:
        ways(path, converters)[way]()
    assert 'photo.jpg' in str(raised.value) or way in ('shard', 'pair')
    with pytest.raises(OSError, match='Ghostscript'), Image.open(path) as image:
        image.load()  # as other packages would, in a process that uses this one
    assert not marker.exists()


@pytest.mark.parametrize('kind', [*fuzz_images.FOREIGN, 'FITS', 'PSD', 'HDR', 'PFM'])
def test_other_formats_raise_one_error_of_one_type(tmp_path, converters, kind):
    written = {
        'FITS': b'SIMPLE  =                    T' + bytes(2880),
        'PSD': b'8BPS\0\1' + bytes(6) + struct.pack('>HIIHH', 3, 8, 8, 8, 3) + bytes(400),
        'HDR': b'#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 8 +X 8\n' + bytes(256),
        'PFM': b'PF\n8 8\n-1.0\n' + bytes(768),
    }
    sound = fuzz_images.sound
    content = (
        written.get(kind) or sound(kind, 'RGB', 16) or sound(kind, '1', 16) or sound(kind, 'P', 16)
    )
    assert content
    path = tmp_path / 'photo.jpg'
    path.write_bytes(content)
    for read in (
        lambda: decode_image(content, 'photo.jpg'),
        lambda: open_image(path),
        lambda: load('LoadImageFromFile')(dict(img_path=str(path))),
        lambda: load('LoadAnnotations')(dict(LABELS, seg_map_path=str(path))),
    ):
        with pytest.raises(UnreadableImage, match='photo.jpg cannot be decoded'):
            read()


@pytest.mark.parametrize('name', SOUND)
def test_formats_that_people_have_are_read(name):
    assert decode_image(odd_image(name)).shape == (*SOUND[name], 3)


@pytest.mark.parametrize('kind', FORMATS)
def test_each_format_of_the_list_is_read(kind):
    if kind not in Image.SAVE:
        pytest.skip(f'This Pillow has no {kind}')
    assert decode_image(encode(picture(), kind)).shape == (30, 40, 3)
    assert read_header(encode(picture(), kind), 'it')[1:] == (40, 30)


@pytest.mark.parametrize('flag', ['unchanged', 'grayscale', 'color', 'color_ignore_orientation'])
@pytest.mark.parametrize('name', ['rgba.png', 'grey.png', 'palette.png', 'rotated.jpg', 'cmyk.tif'])
def test_pillow_gives_what_mmcv_gives_by_pillow(name, flag):
    import mmcv

    content = odd_image(name)
    ours = decode_image(content, flag=flag, backend='pillow')
    np.testing.assert_array_equal(ours, mmcv.imfrombytes(content, flag, backend='pillow'))


def test_images_are_opened_in_one_place_only():
    opening = re.compile(r'\b(Image\.open|imread|imdecode|imfrombytes|read_image|decode_jpeg)\(')
    found = {
        str(path.relative_to(ROOT))
        for folder in ('pgseg_mm', 'tools', 'demo', 'projects', 'configs')
        for path in (ROOT / folder).rglob('*.py')
        if opening.search(path.read_text())
    }
    assert found == {'pgseg_mm/files/image_files.py'}


def png(*sizes: tuple[int, int], data: bytes = b'') -> bytes:
    """A PNG with one header for each size, and right checksums."""
    heads = [fuzz_images.chunk(b'IHDR', struct.pack('>IIBBBBB', *s, 8, 2, 0, 0, 0)) for s in sizes]
    body = fuzz_images.chunk(b'IDAT', zlib.compress(data)) + fuzz_images.chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + b''.join(heads) + body


def tiled(side: int) -> bytes:
    """A TIFF of 8 x 8 pixels in tiles of any side."""
    tags = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 400, 325: 99}
    entries = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in tags.items())
    head = b'II*\x00' + struct.pack('<IH', 8, len(tags)) + entries + bytes(4)
    return head.ljust(400, b'\0') + zlib.compress(bytes(10**6))


@pytest.mark.parametrize(
    'content',
    [png((30000, 30000)), png((13378, 13378)), png((1, 2**30))],
    ids=['square', 'just', 'long'],
)
def test_bombs_are_refused_before_they_are_decoded(monkeypatch, content):
    monkeypatch.setattr('mmcv.imfrombytes', None)
    with pytest.raises(TooManyPixels, match='too large|more than max_pixels'):
        decode_image(content)
    with pytest.raises(TooManyPixels):
        open_image(content)
    with pytest.raises(UnusableSample) as raised:
        run_pipeline(Compose([load('DecodeImage')]), dict(img_bytes=content), 'it', 0, 2**26)
    assert raised.value.reason == TOO_LARGE


def progressive(scans: int) -> bytes:
    """A progressive JPEG whose last scan is there so many times more."""
    whole = encode(picture(), 'JPEG', progressive=True)
    last = whole.rindex(b'\xff\xda')
    return whole[:-2] + whole[last:-2] * scans + whole[-2:]


@pytest.mark.parametrize('read', [decode_image, open_image])
def test_scans_without_end_are_refused(monkeypatch, read):
    """A hundred bytes each, they cost the decoder the whole image."""
    with pytest.raises(UnreadableImage, match='has 3[0-9][0-9] scans, more than 100'):
        read(progressive(300), 'x.jpg')
    assert read(progressive(20), 'x.jpg') is not None
    film = encode(picture(), 'JPEG') + b'\xff\xda' * 500  # behind a phone's picture
    assert read(film, 'x.jpg') is not None


def test_the_limit_of_pixels_holds_everywhere(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, 'MAX_IMAGE_PIXELS', 1199)
    path = tmp_path / 'a.png'
    path.write_bytes(odd_image('grey.png'))
    for kind in ('LoadImageFromFile', 'LoadAnnotations', 'LoadWideAnnotations'):
        with pytest.raises(TooManyPixels, match='40 x 30 pixels, more than max_pixels=1199'):
            load(kind)(dict(LABELS, img_path=str(path), seg_map_path=str(path)))
    monkeypatch.setattr(limits, 'MAX_IMAGE_PIXELS', 1200)
    assert load('LoadImageFromFile')(dict(img_path=str(path)))['img_shape'] == (30, 40)


def test_the_limit_of_pixels_is_lifted_by_an_argument(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, 'MAX_IMAGE_PIXELS', 1199)
    path = tmp_path / 'a.png'
    path.write_bytes(odd_image('grey.png'))
    assert PGSegInferencer(tiny_model(), max_pixels=1200).read(path).shape == (30, 40, 3)
    data = run_pipeline(
        Compose([load('LoadImageFromFile')]), dict(img_path=str(path)), 'it', 0, 1200
    )
    assert data.keys() == {'img_path', 'img', 'img_shape', 'ori_shape'}
    with pytest.raises(ValueError, match='more than max_pixels=1199'):
        PGSegInferencer(tiny_model()).read(path)


def test_damaged_meta_data_do_not_cost_a_picture_that_is_to_be_turned():
    inferencer = PGSegInferencer(tiny_model())
    pixels, turned = picture(20, 30), 0
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x8825] = 6, 'description', {1: 'N', 2: (1.0, 2.0, 3.0)}
    sound, expected = exif.tobytes(), np.rot90(np.asarray(pixels), -1)
    for seed in range(200):
        rng, damaged = random.Random(seed), bytearray(sound)
        for _ in range(3):
            damaged[rng.randrange(14, len(damaged))] = rng.randrange(256)
        content = encode(pixels, 'WEBP', exif=bytes(damaged), lossless=True)
        found = decode_image(content)
        opened = inferencer.read(Image.open(io.BytesIO(content)))
        np.testing.assert_array_equal(found, opened)
        turned += found.shape == (30, 20, 3)
        if found.shape == (30, 20, 3):
            np.testing.assert_array_equal(found[..., ::-1], expected)
    assert turned > 50


@pytest.mark.parametrize('orientation', range(1, 9))
def test_images_are_turned_as_pillow_turns_them(orientation):
    image = picture(20, 30).convert('RGB')
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(image, 'WEBP', exif=exif.tobytes(), lossless=True)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    np.testing.assert_array_equal(decode_image(content)[..., ::-1], expected)


def test_decoders_that_take_more_memory_are_given_fewer_pixels():
    content = encode(picture(), 'WEBP')
    assert decode_image(content, max_pixels=2400).shape == (30, 40, 3)
    with pytest.raises(TooManyPixels, match='40 x 30 pixels, more than max_pixels=1199'):
        decode_image(content, max_pixels=2399)


def test_large_images_are_converted_in_bands(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (31, 40, 3), np.uint8)
    monkeypatch.setattr('pgseg_mm.files.image_files.BAND_PIXELS', 300)
    content = encode(Image.fromarray(pixels), 'BMP')
    np.testing.assert_array_equal(decode_image(content), pixels[..., ::-1])


def test_a_png_of_two_sizes_is_refused():
    with pytest.raises(UnreadableImage, match='two headers'):
        decode_image(png((20000, 20000), (4, 4), data=bytes(10**5)))


def test_a_tile_that_is_far_larger_than_its_image_is_refused():
    with pytest.raises(UnreadableImage, match='a tile has'):
        open_image(tiled(2**15))
    assert open_image(tiled(16)).size == (8, 8)


def test_a_file_without_an_end_is_not_read_on():
    with pytest.raises(UnreadableImage, match='/dev/zero is no regular file'):
        read_image_file('/dev/zero')


def test_a_file_longer_than_any_image_is_not_read(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, 'MAX_IMAGE_BYTES', 10**3)
    (tmp_path / 'long.png').write_bytes(bytes(10**3 + 1))
    with pytest.raises(UnreadableImage, match='has 1001 bytes, more than 1000'):
        read_image_file(tmp_path / 'long.png')


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_damaged_meta_data_do_not_cost_the_picture(kind, backend):
    exif = b'Exif\0\0MM\0*\0\0\0\x08' + b'\xff' * 40
    content = encode(picture(), kind, exif=exif, icc_profile=b'\xff' * 300)
    assert decode_image(content, backend=backend).shape == (30, 40, 3)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF'])
def test_files_that_are_cut_off_anywhere_are_refused_or_read(kind):
    content = encode(picture(), kind)
    for end in range(0, len(content), max(1, len(content) // 40)):
        try:
            assert decode_image(content[:end]).shape == (30, 40, 3)
        except UnreadableImage as error:
            assert len(str(error)) < 600


def test_errors_name_the_file_and_travel_between_processes():
    import pickle

    with pytest.raises(TooManyPixels) as raised:
        read_header(png((9, 9)), 'a.png', 80)
    again = pickle.loads(pickle.dumps(raised.value))
    assert (
        type(again) is TooManyPixels
        and str(again) == 'a.png has 9 x 9 pixels, more than max_pixels=80.'
    )


def test_labels_are_those_of_mmseg(tmp_path):
    from mmseg.datasets.transforms import LoadAnnotations

    labels = np.random.default_rng(0).integers(0, 256, (7, 9), np.uint8)
    path = tmp_path / 'a.png'
    path.write_bytes(encode(Image.fromarray(labels), 'PNG'))
    for reduce, table in itertools.product((False, True), (None, {1: 5, 5: 1, 7: 255})):
        results = dict(seg_map_path=str(path), reduce_zero_label=reduce, label_map=table)
        ours = load('LoadAnnotations')(dict(results, seg_fields=[]))
        theirs = LoadAnnotations()(dict(results, seg_fields=[]))
        np.testing.assert_array_equal(ours['gt_seg_map'], theirs['gt_seg_map'])
        assert ours['gt_seg_map'].dtype == np.uint8 and ours['seg_fields'] == ['gt_seg_map']


def test_a_thousand_hostile_images_are_read_or_refused():
    readable = sum(
        fuzz_images.read_in_all_ways(content) > 0
        for _, content in itertools.islice(fuzz_images.cases(0), 1000)
    )
    assert 100 < readable < 900


def test_the_inferencer_reads_the_content_of_a_file():
    inferencer = PGSegInferencer(tiny_model())
    file = io.BytesIO(encode(picture(), 'PNG'))
    np.testing.assert_array_equal(
        inferencer.read(file.getvalue()), np.asarray(picture())[..., ::-1]
    )
    with pytest.raises(ValueError, match='upload.png cannot be read as an image'):
        inferencer.read(b'text', 'upload.png')
    assert 'PIL.EpsImagePlugin' in sys.modules
