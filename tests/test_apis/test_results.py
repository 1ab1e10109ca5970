"""What results say, what stays in a folder, and what a view takes over from its model."""

import io
import logging

import numpy as np
import pytest
from mmengine.logging import MMLogger
from PIL import Image

from inferencer_zoo import WORDS, frame
from model_zoo import lively_model
from pgseg_mm.apis import PGSegInferencer, Segmentation
from pgseg_mm.apis.results import ResultWriter
from pgseg_mm.apis.sources import folder_images
from pgseg_mm.text.words import make_vocabulary


def result_of(mask, classes, **settings) -> Segmentation:
    return Segmentation(np.array(mask, np.int32), classes, 'a.png', 'a.png', **settings)


def test_classes_of_one_name_have_one_share():
    result = result_of([[0, 1, 2, 2], [0, 3, 2, 2]], ('car', 'tree', 'bus', 'car', 'sky'))
    assert result.areas == {'bus': 0.5, 'car': 0.375, 'tree': 0.125}
    assert list(result.areas) == ['bus', 'car', 'tree']


def test_areas_of_an_earlier_run_stay_until_there_is_a_result(inferencer, tmp_path):
    inferencer(frame(), WORDS, out_dir=tmp_path)
    before = (tmp_path / 'areas.csv').read_text()
    assert before.count('\n') > 1
    with pytest.raises(FileNotFoundError):
        inferencer(tmp_path / 'absent.png', WORDS, out_dir=tmp_path)
    assert (tmp_path / 'areas.csv').read_text() == before
    inferencer(frame(1), WORDS, out_dir=tmp_path)
    assert (tmp_path / 'areas.csv').read_text().count('image,class,share') == 1


def test_a_class_is_a_line(tmp_path):
    ResultWriter(tmp_path, ('red\ncar', 'cat'))
    assert (tmp_path / 'classes.txt').read_text() == 'red car\ncat\n'
    ResultWriter(tmp_path, ('red\ncar', 'cat'))


def test_views_follow_the_settings_of_the_model():
    inferencer = PGSegInferencer(lively_model())
    image = frame()
    inferencer(image, WORDS)
    (whole,) = inferencer._views.kept
    inferencer.model.test_cfg.update(mode='slide', crop_size=(16, 16), stride=(8, 8))
    inferencer(image, WORDS)
    slid = inferencer._views.kept[-1]
    assert (whole.test_cfg['mode'], slid.test_cfg['mode']) == ('whole', 'slide')
    inferencer.model.templates = ('a drawing of {}.',)
    inferencer(image, WORDS)
    assert inferencer._views.kept[-1].templates == ('a drawing of {}.',)
    inferencer(image, [*WORDS, 'sky'])
    assert inferencer._views.kept[-1].test_cfg['mode'] == 'slide'
    assert len(inferencer._views.kept) == 4
    inferencer(image, WORDS)
    assert len(inferencer._views.kept) == 4


@pytest.mark.parametrize('value', [0.0, 0.3])
def test_a_constant_of_the_background_is_kept(value):
    decision = dict(logit_scale=1.0, background_score=value)
    inferencer = PGSegInferencer(lively_model(test_cfg=dict(mode='whole', decision=decision)))
    inferencer(frame(), ['background', *WORDS])
    assert inferencer._views.kept[-1].decision.background_score == value


@pytest.mark.parametrize(
    ('decision', 'words', 'told'),
    [
        (None, ['dog'], True),
        (None, ['background', 'dog'], True),
        (dict(logit_scale=1.0), ['dog'], True),
        (dict(logit_scale=1.0), [['background', 'wall', 'sky'], 'dog'], False),
        (dict(logit_scale=1.0, background_score=0.1), ['background', 'dog'], False),
    ],
)
def test_one_class_takes_every_pixel_where_nothing_else_can(decision, words, told):
    settings = {} if decision is None else dict(decision=decision)
    inferencer = PGSegInferencer(lively_model(test_cfg=dict(mode='whole', **settings)))
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    inferencer(frame(), words)
    logger.removeHandler(handler)
    assert bool([text for text in messages if 'the only class' in text]) == told


@pytest.mark.parametrize('highest', [200, 40000])
def test_an_open_image_is_that_of_its_file(inferencer, highest):
    numbers = np.linspace(0, highest, 4096).astype(np.int32).reshape(64, 64)
    file = io.BytesIO()
    Image.fromarray(numbers).save(file, 'TIFF')
    found = [inferencer.read(given) for given in (file.getvalue(), Image.open(file))]
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0].max() == (highest if highest < 256 else highest >> 8)


def test_numbers_of_which_none_is_white_are_refused(inferencer):
    image = Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    file = io.BytesIO()
    image.save(file, 'TIFF')
    for given in (image, file.getvalue()):
        with pytest.raises(ValueError, match='floating-point ones|cannot be read as an image'):
            inferencer.read(given)


@pytest.mark.parametrize('address', ['file:///absent/a.png', 'nowhere://a/b.png'])
def test_an_address_that_nothing_reads_fails_alone(inferencer, address):
    first, second = inferencer([address, frame()], WORDS)
    assert 'has an address that cannot be read here' in first.error
    assert second.error is None


def test_a_folder_has_images_of_formats_that_are_read(tmp_path):
    for name in ('a.png', 'b.ppm', 'c.pgm', 'd.jpg'):
        Image.new('L', (8, 8)).save(tmp_path / name)
    assert [path[-5:] for path in folder_images(tmp_path)] == ['a.png', 'd.jpg']


def test_a_comma_in_a_synonym_is_told():
    with pytest.raises(ValueError, match=r"of 'dog': write \['puppy', 'hound'\]"):
        make_vocabulary({'dog': 'puppy, hound'})
    assert make_vocabulary({'dog': 'puppy'}).words == (('dog', 'puppy'),)
