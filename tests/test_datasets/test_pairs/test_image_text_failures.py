"""Images that cannot be used, and systems that fail."""

import io
import json
import urllib.error

import numpy as np
import pytest
from PIL import Image

from pair_zoo import FILES, LOAD, LOAD_SAFELY, make, write
from pgseg_mm import limits
from pgseg_mm.datasets.pairs.json_rows import read_lines
from pgseg_mm.datasets.sampling.random_state import seeded
from pgseg_mm.datasets.sampling.sample_key import READ_RECORD
from pgseg_mm.files import reading
from pgseg_mm.files.reading import FileAccessError
from shard_zoo import bomb


@pytest.mark.parametrize('content', [b'this is no image', b''])
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_an_image_that_is_no_image_is_named_with_its_row(root, content, backend):
    (root / 'images' / 'cat.png').write_bytes(content)
    name = write(root, 'pairs.csv', FILES['pairs.csv'])
    load = dict(LOAD[0], imdecode_backend=backend)
    dataset = make(root, name, pipeline=[load], skip_broken=False)

    with pytest.raises(ValueError, match=r'cat.png \(line 2 of .*cannot be read') as error:
        dataset[0]
    assert error.value.__cause__ is not None


def test_an_mmcv_that_does_not_check_what_it_decoded_makes_no_difference(root, monkeypatch):
    def transform(self, results):
        decoded = None
        return dict(results, img=decoded, img_shape=decoded.shape)

    monkeypatch.setattr('mmcv.transforms.LoadImageFromFile.transform', transform)
    name = write(root, 'pairs.csv', FILES['pairs.csv'])
    dataset = make(root, name, pipeline=LOAD, skip_broken=False)

    with pytest.raises(ValueError, match=r'cat.png \(line 2 of .*cannot be read'):
        dataset[0]


def test_a_missing_image_is_named_with_its_row(root):
    name = write(root, 'pairs.json', '[{"image": "bird.png", "caption": "a bird"}]')
    dataset = make(root, name, pipeline=LOAD, skip_broken=False)

    with pytest.raises(FileNotFoundError, match=r'bird.png \(entry 1 of .*does not exist'):
        dataset[0]


def test_an_error_of_another_transform_stays_what_it_is(root):
    def broken(results):
        raise OSError('out of paper')

    name = write(root, 'pairs.json', FILES['pairs.json'])
    dataset = make(root, name, pipeline=[*LOAD, broken])

    with pytest.raises(OSError, match='^out of paper$'):
        dataset[0]


def test_images_that_cannot_be_used_are_replaced_and_counted(root):
    images = root / 'images'
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(images / 'half.jpg')
    (images / 'half.jpg').write_bytes((images / 'half.jpg').read_bytes()[:900])
    (images / 'bomb.png').write_bytes(bomb())
    Image.new('RGB', (3, 3)).save(images / 'dot.png')
    names = ['cat.png', 'half.jpg', 'bomb.png', 'dot.png', 'gone.png']
    name = write(root, 'a.json', json.dumps([dict(image=n, caption=n) for n in names]))
    decode = [dict(type='DecodeImage')]
    dataset = make(root, name, pipeline=decode, min_pixels=10, source='zoo', max_refetch=200)

    reasons = ['broken image', 'too large', 'too small', 'missing image']
    for index, reason in enumerate(reasons, start=1):
        with seeded(index):
            sample = dataset[index]
        record = sample[READ_RECORD]
        assert sample['img_path'].endswith('cat.png')
        assert 'img_bytes' not in sample
        assert record.source == 'zoo'
        assert record.key == f'{root}/images/cat.png (entry 1)'
        assert record.skipped['zoo'][reason] >= 1
        with seeded(index):
            assert dataset[index][READ_RECORD] == record
    assert dataset[0][READ_RECORD].skipped == {}


def test_where_no_image_can_be_used_it_says_why(root):
    name = write(root, 'a.json', '[{"image": "gone.png", "caption": "x"}]')
    dataset = make(root, name, pipeline=LOAD, max_refetch=4)

    with pytest.raises(RuntimeError, match=r'No usable pair in 5 .*5 missing image.*gone.png'):
        dataset[0]


SYSTEM_ERRORS = [
    (PermissionError(13, 'Permission denied'), 1, r'\[Errno 13\] Permission denied; tried 1 times'),
    (OSError(24, 'Too many open files'), 4, r'\[Errno 24\] Too many open files; tried 4 times'),
    (ConnectionRefusedError(111, 'Connection refused'), 4, r'\[Errno 111\] Connection refused'),
    (OSError(28, 'No space left on device'), 1, r'\[Errno 28\] No space left'),
    (OSError(5, 'Input/output error'), 4, r'\[Errno 5\] Input/output error'),
]


@pytest.mark.parametrize('skip_broken', [True, False])
@pytest.mark.parametrize(('fault', 'tries', 'message'), SYSTEM_ERRORS)
def test_the_systems_errors_stop_the_run_and_say_so(
    root, monkeypatch, fault, tries, message, skip_broken
):
    calls, pauses = [], []

    def failing(path, max_bytes):
        calls.append(path)
        raise fault

    name = write(root, 'pairs.json', FILES['pairs.json'])
    dataset = make(root, name, pipeline=LOAD_SAFELY, skip_broken=skip_broken)
    monkeypatch.setattr('pgseg_mm.files.reading.read_regular', failing)
    monkeypatch.setattr('pgseg_mm.files.reading.time.sleep', pauses.append)

    with pytest.raises(FileAccessError, match=message) as error:
        dataset[0]
    assert 'cat.png (entry 1' in str(error.value) and 'remove the row' not in str(error.value)
    assert len(calls) == tries == len(pauses) + 1
    assert dataset._skipped.counts() == {}


def test_what_passes_is_tried_again(root, monkeypatch):
    read, failures = reading.read_regular, [OSError(24, 'Too many open files')] * 2

    def sometimes(path, max_bytes):
        if failures:
            raise failures.pop()
        return read(path, max_bytes)

    name = write(root, 'pairs.json', FILES['pairs.json'])
    dataset = make(root, name, pipeline=LOAD_SAFELY)
    monkeypatch.setattr(reading, 'read_regular', sometimes)
    monkeypatch.setattr('pgseg_mm.files.reading.time.sleep', lambda seconds: None)

    assert dataset[0][READ_RECORD].skipped == {}


def test_a_refused_connection_of_a_backend_is_no_broken_image(root, monkeypatch):
    refused = urllib.error.URLError(ConnectionRefusedError(111, 'Connection refused'))

    def fetch(*_):
        raise refused

    monkeypatch.setattr('pgseg_mm.files.reading.fileio.get', fetch)
    monkeypatch.setattr('pgseg_mm.files.reading.time.sleep', lambda seconds: None)
    name = write(root, 'pairs.json', FILES['pairs.json'])
    stored = [dict(type='DecodeImage', backend_args=dict(backend='local'))]
    dataset = make(root, name, pipeline=stored)

    with pytest.raises(FileAccessError, match='Connection refused'):
        dataset[0]
    refused = urllib.error.HTTPError('http://store', 404, 'Not found', None, None)
    with pytest.raises(RuntimeError, match='missing image'):
        dataset.max_refetch = 2
        dataset[0]


def test_a_last_row_of_the_largest_length_is_read(monkeypatch):
    monkeypatch.setattr(limits, 'MAX_ROW_CHARACTERS', 8)
    rows = {
        '{"a": 1}': ['{"a": 1}'],
        '{"a": 10}': [None],
        '{"a":1}\n{"a": 2}': ['{"a":1}\n', '{"a": 2}'],
    }
    for text, expected in rows.items():
        assert [line for _, line in read_lines(io.StringIO(text))] == expected


def test_a_caption_that_begins_with_a_quote_swallows_no_others(root):
    rows = 'image\tcaption\nimages/cat.png\t"a cat\nimages/cat.png\tsays hello"\n'
    with pytest.raises(ValueError, match='line 3: a field goes on over several lines'):
        make(root, write(root, 'pairs.tsv', rows))


def test_a_table_without_names_of_columns_is_told_to_have_them(root):
    with pytest.raises(ValueError, match='A table begins with a line of the names of its columns'):
        make(root, write(root, 'pairs.tsv', 'images/cat.png\ta cat\nimages/cat.png\ta dog\n'))
