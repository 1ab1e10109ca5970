"""Images and words in all the forms that people have them in."""

import io

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from model_zoo import lively_model, tiny_model_cfg
from pgseg_mm.apis import PGSegInferencer
from pgseg_mm.apis.sources import in_batches
from pgseg_mm.files.image_files import decode_image
from pgseg_mm.text.words import make_vocabulary

WORDS = ['dog', 'red car', 'grass']


@pytest.fixture(scope='module')
def inferencer():
    return PGSegInferencer(lively_model(test_cfg=dict(mode='whole')))


@pytest.fixture(scope='module')
def bgr() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def forms(bgr: np.ndarray) -> dict:
    """An image in all its forms."""
    rgb = np.ascontiguousarray(bgr[..., ::-1])
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, 'PNG')
    file.seek(0)
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    content = file.getvalue()
    return {
        'pil': Image.fromarray(rgb),
        'bytes': content,
        'bytearray': bytearray(content),
        'memoryview': memoryview(content),
        'file': file,
        'tensor': tensor,
        'float tensor': tensor / 255,
    }


KINDS = tuple(forms(np.zeros((2, 2, 3), np.uint8)))


@pytest.mark.parametrize('kind', KINDS)
def test_read_alike_alone_and_in_lists(inferencer, bgr, kind):
    np.testing.assert_array_equal(inferencer.read(forms(bgr)[kind]), bgr)
    expected = inferencer(bgr, WORDS)[0].mask
    (alone,) = inferencer(forms(bgr)[kind], WORDS)
    results = inferencer([forms(bgr)[kind], bgr], WORDS, progress=False)
    for result in (alone, *results):
        np.testing.assert_array_equal(result.mask, expected)
    assert [result.name for result in results] == ['0', '1']


def test_pil_images_are_turned_and_in_colour(inferencer, bgr):
    image = Image.fromarray(bgr[..., ::-1])
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter to the right
    file = io.BytesIO()
    image.save(file, 'PNG', exif=exif)
    assert inferencer.read(Image.open(file)).shape == (60, 40, 3)
    grey = Image.fromarray(bgr[..., 0])
    np.testing.assert_array_equal(inferencer.read(grey)[..., 2], bgr[..., 0])
    deep = Image.fromarray(bgr[..., 0].astype(np.uint16) * 257)
    np.testing.assert_array_equal(inferencer.read(deep)[..., 1], bgr[..., 0])
    dark = Image.fromarray(np.full((40, 60), 200, np.uint16))
    assert not inferencer.read(dark).any()  # as from a file
    inferencer_of_few = PGSegInferencer(inferencer.model, max_pixels=100)
    with pytest.raises(ValueError, match='60 x 40 pixels, more than 100'):
        inferencer_of_few.read(image)


BAD = {
    'dict': ({'a.png': 1}, TypeError, 'got dict'),
    'set': ({'a.png'}, TypeError, 'got set'),
    'number': (3, TypeError, 'got int'),
    'text file': (io.StringIO('a'), TypeError, r"as open\(path, 'rb'\)"),
    'batch': (torch.zeros(2, 3, 8, 8), ValueError, 'a batch as a list of its images'),
    'normalised': (torch.full((3, 8, 8), 2.0), ValueError, 'values from 0 to 1.*got 2 to 2'),
    'nan': (torch.full((3, 8, 8), float('nan')), ValueError, 'values from 0 to 1'),
    'integers': (torch.zeros(3, 8, 8, dtype=torch.long), ValueError, 'uint8 or of floats'),
    'no path': ('', ValueError, 'path of the image is empty'),
    'no bytes': (b'', ValueError, 'is empty'),
    'other bytes': (b'hello', ValueError, 'cannot be'),
}


@pytest.mark.parametrize('kind', BAD)
def test_what_is_no_image_is_refused_alone_and_named_in_lists(inferencer, bgr, kind):
    image, error, message = BAD[kind]
    with pytest.raises(error, match=message):
        inferencer(image, WORDS)
    if kind in ('dict', 'set'):
        message = 'must be a path, an array'
    first, second = inferencer([image, bgr], WORDS, progress=False)
    assert first.mask is None
    assert second.mask is not None
    if kind != 'number':
        assert len(first.error) <= 600


def test_a_folder_without_images_does_not_end_the_rest(inferencer, bgr, tmp_path):
    (tmp_path / 'empty').mkdir()
    mixed = [tmp_path / 'empty', bgr, 'x' * 5000, 'a\0b', None]
    for images in (mixed, iter(mixed)):
        results = inferencer(images, WORDS, progress=False)
        assert [result.mask is not None for result in results] == [False, True] + [False] * 3
        assert 'holds no image' in results[0].error
        assert results[0].path == str(tmp_path / 'empty')


def test_a_dict_of_synonyms_keeps_them():
    vocabulary = make_vocabulary({'dog': ['puppy', 'hound'], 'car': 'auto', 'sky': None})
    assert vocabulary.words == (('dog', 'puppy', 'hound'), ('car', 'auto'), ('sky',))


@pytest.mark.parametrize(
    'classes', [b'dog', {'dog', 'cat'}, 3, ['dog', 3], ['dog', None], {0: 'dog'}, [['dog', 3]]]
)
def test_what_is_no_word_is_refused(classes):
    with pytest.raises(TypeError, match='class'):
        make_vocabulary(classes)


@pytest.mark.parametrize(
    ('options', 'error'),
    [
        (dict(threshold=1.5), ValueError),
        (dict(threshold=-0.1), ValueError),
        (dict(threshold=float('nan')), ValueError),
        (dict(threshold='0.5'), TypeError),
        (dict(batch_size=1.5), TypeError),
        (dict(batch_size=True), TypeError),
    ],
)
def test_ranges_are_checked(inferencer, bgr, options, error):
    with pytest.raises(error, match=next(iter(options))):
        inferencer(bgr, WORDS, **options)


def test_no_pixels_at_all_are_refused(inferencer):
    with pytest.raises(ValueError, match='max_pixels must be at least 1'):
        PGSegInferencer(inferencer.model, max_pixels=0)


def test_sections_of_a_config_that_are_none(inferencer, bgr, tmp_path):
    sections = dict.fromkeys(('test_dataloader', 'test_evaluator', 'test_cfg', 'test_pipeline'))
    model = tiny_model_cfg(test_cfg=dict(mode='whole'))
    cfg = Config(dict(model=model, background_thresholds=None, **sections))
    torch.save(dict(state_dict=inferencer.model.state_dict()), tmp_path / 'tiny.pth')
    built = PGSegInferencer(cfg, tmp_path / 'tiny.pth', device='cpu')
    found = built(bgr, WORDS, background=True)[0].mask
    np.testing.assert_array_equal(found, inferencer(bgr, WORDS, background=True)[0].mask)


def test_batches_are_read_as_they_are_taken():
    read = []

    def video():
        for number in range(5):
            read.append(number)
            yield number

    batches, number = in_batches(video(), 2)
    assert number is None and not read
    assert next(batches) == [0, 1] and read == [0, 1]
    assert list(batches) == [[2, 3], [4]]
    batches, number = in_batches(['a.png', 'b.png', 'c.png'], np.int64(2))
    assert (number, list(batches)) == (3, [['a.png', 'b.png'], ['c.png']])
    assert [list(batch) for batch in in_batches([], 2)[0]] == []


@pytest.mark.parametrize('size', [True, 1.0, '2', None])
def test_batches_of_no_number(size):
    with pytest.raises(TypeError, match='must be a whole number'):
        in_batches(['a.png'], size)


def test_a_damaged_pil_image_fails_alone(inferencer, bgr):
    file = io.BytesIO()
    Image.fromarray(bgr).save(file, 'PNG')
    damaged = Image.open(io.BytesIO(file.getvalue()[:200]))
    first, second = inferencer([damaged, bgr], WORDS, progress=False)
    assert '0 cannot be decoded: ' in first.error and second.error is None
    with pytest.raises(ValueError, match='cannot be decoded'):
        inferencer(Image.open(io.BytesIO(file.getvalue()[:200])), WORDS)


def test_a_file_of_text_says_how_to_open_it(inferencer, bgr, tmp_path):
    path = tmp_path / 'a.jpg'
    Image.fromarray(bgr).save(path)
    with path.open(encoding='utf-8') as file, pytest.raises(TypeError, match='in binary mode'):
        inferencer.read(file)


def test_links_that_lead_nowhere_are_images_that_fail(inferencer, bgr, tmp_path):
    Image.fromarray(bgr).save(tmp_path / 'a.png')
    (tmp_path / 'b.png').symlink_to(tmp_path / 'not mounted' / 'b.png')
    first, second = inferencer(tmp_path, WORDS, progress=False)
    assert first.error is None and 'b.png' in second.error


def test_results_of_other_classes_are_not_mixed(inferencer, bgr, tmp_path):
    inferencer(bgr, WORDS, out_dir=tmp_path)
    inferencer([bgr, bgr], WORDS, out_dir=tmp_path, progress=False)
    before = (tmp_path / 'areas.csv').read_bytes()
    with pytest.raises(FileExistsError, match='has results of other classes'):
        inferencer(bgr, ['cat', 'grass'], out_dir=tmp_path)
    assert (tmp_path / 'areas.csv').read_bytes() == before


@pytest.mark.parametrize('backend', ['tifffile', 'cv2', 'pillow'])
@pytest.mark.parametrize('kind', ['rgb', 'grey', 'rgba', 'pages', '16 bit'])
def test_tiff_is_read_alike_by_all_backends(bgr, backend, kind):
    image = Image.fromarray(np.ascontiguousarray(bgr[..., ::-1]))
    file, more = io.BytesIO(), {}
    if kind == 'pages':
        more = dict(save_all=True, append_images=[image.rotate(180)])
    image = image.convert({'grey': 'L', 'rgba': 'RGBA', '16 bit': 'I;16'}.get(kind, 'RGB'))
    image.save(file, 'TIFF', **more)
    found = decode_image(file.getvalue(), backend=backend)
    assert found.shape == bgr.shape and found.dtype == np.uint8
    if kind in ('rgb', 'rgba', 'pages'):
        np.testing.assert_array_equal(found, bgr)
