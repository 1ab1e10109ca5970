import io
import pickle

import numpy as np
import pytest
import torch
from mmcv.transforms import Resize
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmseg.structures import SegDataSample
from PIL import Image

from odd_images import SOUND, odd_image
from pgseg_mm.datasets import DecodeImage, PackImageTextInputs, TokenizeCaption
from pgseg_mm.datasets.transforms import ResizeAnyShape
from pgseg_mm.text import tokenize

TRAIN_PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(
        type='mmpretrain.RandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.08, 1.0),
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='TokenizeCaption', context_length=77),
    dict(type='PackImageTextInputs'),
]


def test_the_training_pipeline_of_a_config(tmp_path):
    init_default_scope('mmseg')
    path = str(tmp_path / 'cat.png')
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(path)

    packed = Compose(TRAIN_PIPELINE)(dict(img_path=path, caption='a cat'))

    assert set(packed) == {'inputs', 'tokens', 'data_samples'}
    assert packed['inputs'].shape == (3, 224, 224)
    assert packed['inputs'].dtype == torch.uint8
    assert torch.equal(packed['tokens'], tokenize('a cat')[0])
    assert isinstance(packed['data_samples'], SegDataSample)
    assert packed['data_samples'].metainfo == dict(
        img_path=path, caption='a cat', ori_shape=(30, 40), img_shape=(224, 224)
    )


def test_a_caption_is_tokenised_for_the_text_encoders_model():
    step = TokenizeCaption(model='coca_ViT-B-32')
    assert repr(step) == "TokenizeCaption(context_length=None, model='coca_ViT-B-32')"
    assert torch.equal(step(dict(caption='a cat'))['tokens'], tokenize('a cat', 76)[0])


def test_a_caption_of_500_words_is_cut_and_keeps_its_end_token():
    tokens = TokenizeCaption(context_length=16)(dict(caption='cat ' * 500))['tokens']

    assert tokens.shape == (16,)
    assert tokens.dtype == torch.int64
    assert tokens[-1] == 49407


def test_tokenizing_needs_a_caption():
    with pytest.raises(KeyError, match="needs 'caption'"):
        TokenizeCaption()(dict(img_path='cat.png'))


def test_packing_puts_channels_first_in_memory_of_its_own_order():
    image = np.arange(24, dtype=np.float32).reshape(2, 4, 3)[:, ::-1]  # a flipped view
    packed = PackImageTextInputs(meta_keys=('caption',))(
        dict(img=image, tokens=tokenize('a cat')[0], caption='a cat')
    )

    assert packed['inputs'].is_contiguous()
    assert packed['inputs'].dtype == torch.float32
    assert packed['inputs'][:, 0, 0].tolist() == [9.0, 10.0, 11.0]
    assert packed['data_samples'].metainfo == dict(caption='a cat')


def test_packing_a_grey_image_keeps_its_one_channel():
    image = np.zeros((2, 4), np.uint8)

    assert PackImageTextInputs()(dict(img=image, tokens=None))['inputs'].shape == (1, 2, 4)


def test_packing_needs_tokens_and_says_where_they_come_from():
    with pytest.raises(KeyError, match='put TokenizeCaption before it'):
        PackImageTextInputs()(dict(img=np.zeros((2, 4, 3), np.uint8)))


def test_packing_needs_an_image():
    with pytest.raises(KeyError, match='put LoadImageFromFile before it'):
        PackImageTextInputs()(dict(tokens=tokenize('a cat')[0]))


def noisy(kind='JPEG', **options):
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_images_are_decoded_from_bytes_as_from_files(tmp_path, backend):
    path = tmp_path / 'a.png'
    path.write_bytes(noisy('PNG'))
    expected = np.asarray(Image.open(path))[:, :, ::-1]
    decode = DecodeImage(imdecode_backend=backend)

    for results in (dict(img_path=str(path)), dict(img_bytes=path.read_bytes())):
        decoded = decode(results)
        np.testing.assert_array_equal(decoded['img'], expected)
        assert decoded['img'].flags.c_contiguous
        assert decoded['img_shape'] == decoded['ori_shape'] == (30, 40)


@pytest.mark.parametrize('lost', [2, 10, 700, 1500])
def test_a_jpeg_file_that_is_cut_off_is_refused_though_opencv_may_fill_it_with_grey(
    monkeypatch, lost
):
    image = noisy(exif=preview())
    lenient = np.zeros((30, 40, 3), np.uint8)
    monkeypatch.setattr('mmcv.imfrombytes', lambda *args, **kwargs: lenient)

    assert DecodeImage()(dict(img_bytes=image))['img'] is lenient
    assert DecodeImage()(dict(img_bytes=image + b'behind the end' * 200))['img'] is lenient
    with pytest.raises(OSError, match='The image is cut off'):
        DecodeImage()(dict(img_bytes=image[:-lost]))


def test_a_film_behind_a_picture_is_no_part_of_it():
    """Phones append one; its bytes may look like an end and the beginning of a scan."""
    image = noisy(exif=preview())
    for film in (b'\xff\xd9\x00\xff\xda', b'ftyp' + b'\xff\xda\xff\xd9\xff\xda' * 9):
        assert DecodeImage()(dict(img_bytes=image + film))['img'].shape == (30, 40, 3)
    scan = image[image.rfind(b'\xff\xda') :]
    hostile = b'\xff\xd8' + b'\xff\xe0\x00\x02' * 50_000 + scan + b'\xff\xda'
    with pytest.raises(OSError, match='The image is cut off'):  # none has so many segments
        DecodeImage()(dict(img_bytes=hostile))


def test_a_progressive_picture_has_many_scans():
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, 'JPEG', progressive=True, comment=b'\xff\xda \xff\xd9')
    behind = buffer.getvalue() + b'\xff\xd9\xff\xda'
    assert DecodeImage()(dict(img_bytes=behind))['img'].shape == (30, 40, 3)


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        (np.linspace(0, 1, 12, dtype=np.float32), 'floating-point'),
        (np.arange(12, dtype=np.int32) * 10_000, 'more than 16 bits'),
    ],
)
def test_numbers_without_a_known_white_are_refused(values, message):
    buffer = io.BytesIO()
    Image.fromarray(values.reshape(3, 4)).save(buffer, 'TIFF')
    with pytest.raises(OSError, match=message):
        DecodeImage()(dict(img_bytes=buffer.getvalue()))


def preview():
    """Meta data that holds a whole JPEG image, as cameras write them."""
    return b'Exif\x00\x00' + noisy()


@pytest.mark.parametrize(
    ('name', 'asked'),
    [('cmyk.tif', []), ('animated.gif', []), ('rotated.jpg', ['cv2']), ('grey16.png', ['cv2'])],
)
def test_what_opencv_cannot_decode_is_left_to_pillow(monkeypatch, name, asked):
    backends = []

    def old_opencv(content, *args, backend, **kwargs):
        backends.append(backend)

    monkeypatch.setattr('mmcv.imfrombytes', old_opencv)
    assert DecodeImage()(dict(img_bytes=odd_image(name)))['img'].shape == (*SOUND[name], 3)
    assert backends == asked


@pytest.mark.parametrize(
    ('image', 'message'),
    [(b'', 'a.png is empty'), (b'text', 'a.png cannot be decoded, or is cut off: cannot identify')],
)
def test_unreadable_images_name_the_file(tmp_path, image, message):
    path = tmp_path / 'a.png'
    path.write_bytes(image)
    with pytest.raises(OSError, match=message) as raised:
        DecodeImage()(dict(img_path=str(path)))
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    assert DecodeImage(ignore_empty=True)(dict(img_path=str(path))) is None


@pytest.mark.parametrize('size', [(30, 40), (1, 10000), (10000, 2)])
def test_images_of_any_shape_are_resized(size):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    options = dict(scale=(128, 32), keep_ratio=True)
    resized = ResizeAnyShape(**options)(dict(img=image))
    if min(size) > 2:
        np.testing.assert_array_equal(resized['img'], Resize(**options)(dict(img=image))['img'])
    else:
        assert resized['img'].shape[:2] == tuple(128 if side > 2 else 1 for side in size)
    assert resized['img_shape'] == resized['img'].shape[:2]
