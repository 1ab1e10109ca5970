"""What the inferencer refuses, and how it goes on behind what fails."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS

from inferencer_zoo import WORDS, config, frame, write_images
from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.apis import PGSegInferencer
from pgseg_mm.serialization.loading import CheckpointError


def test_dense_scores_that_do_not_fit_are_refused_before_the_work(inferencer):
    words = [f'thing {i}' for i in range(919)]
    image = np.zeros((3000, 4000, 3), np.uint8)
    with pytest.raises(ValueError, match=r'4000 x 3000 pixels, would take 44\.1 GB; ask for'):
        inferencer(image, words, scores='dense')


def test_the_run_goes_on_behind_images_that_fail(inferencer, tmp_path, log):
    good = write_images(tmp_path, 'a.png') / 'a.png'
    bad = tmp_path / 'b.png'
    bad.write_bytes(b'no image')
    images = [good, bad, 'absent.png', None, frame().astype(float), frame()[:0], frame()]
    results = inferencer(images, WORDS, batch_size=3, progress=False)
    assert [result.mask is not None for result in results] == [1, 0, 0, 0, 0, 0, 1]
    assert [result.error is None for result in results] == [1, 0, 0, 0, 0, 0, 1]
    assert results.failures == results[1:6] and results[1].areas == {}
    for result, reason in zip(
        results.failures,
        [f'{bad} cannot be read', 'absent.png does not exist', 'Image 3 must be a path or an array',
         'Image 4 must be .* uint8', 'Image 5 has no pixels'],
        strict=True,
    ):  # fmt: skip
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(result.error)
        assert result.error in log[-1] and result.error in results.summary()
    assert '2 of 7 images segmented, 5 failed' in log[-1]


def test_a_single_image_that_fails_is_an_error(inferencer, tmp_path):
    with pytest.raises(FileNotFoundError, match='absent.png does not exist'):
        inferencer('absent.png', WORDS)
    (tmp_path / 'b.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match='cannot be read as an image'):
        inferencer(tmp_path / 'b.png', WORDS)
    with pytest.raises(ValueError, match='uint8'):
        inferencer(frame().astype(np.float32), WORDS)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(), 'names classes: give some'),
        (dict(classes=WORDS, vocabulary='voc21'), 'either classes or a vocabulary'),
        (dict(classes=WORDS, batch_size=0), 'batch_size must be at least 1'),
        (dict(classes=WORDS, scores='all'), "must be 'classes', 'dense' or None"),
        (dict(classes=WORDS, threshold=0.0), 'must be None or positive'),
        (dict(classes=WORDS, threshold=0.5, background=False), 'A threshold finds the background'),
        (dict(classes=['background']), 'nothing but the background'),
    ],
)
def test_faulty_options(inferencer, options, message):
    with pytest.raises(ValueError, match=message):
        inferencer.stream(frame(), **options)


def test_faulty_images(inferencer):
    with pytest.raises(TypeError, match='must be a path, an array, a folder'):
        inferencer(7, WORDS)
    with pytest.raises(FileNotFoundError, match='Vocabulary file absent'):
        inferencer(frame(), vocabulary='absent')


def test_faulty_models(checkpoint, tmp_path):
    with pytest.raises(ValueError, match='needs weights'):
        PGSegInferencer(config())
    with pytest.raises(FileNotFoundError, match='absent.py'):
        PGSegInferencer('absent.py', checkpoint)
    with pytest.raises(FileNotFoundError, match='absent.pth'):
        PGSegInferencer(config(), 'absent.pth')
    with pytest.raises(TypeError, match="PGSeg, got Linear; mmseg's MMSegInferencer"):
        PGSegInferencer(torch.nn.Linear(1, 1))
    classifier = MODELS.build(tiny_model_cfg(type='PGSegClassifier'))
    with pytest.raises(TypeError, match='PGSeg, got PGSegClassifier'):
        PGSegInferencer(classifier)
    with pytest.raises(TypeError, match='path of a config'):
        PGSegInferencer(3, checkpoint)
    with pytest.raises(ValueError, match='has no model'):
        PGSegInferencer(Config(dict(a=1)), checkpoint)
    backbone = dict(tiny_model_cfg()['backbone'], embed_dims=48)
    with pytest.raises(CheckpointError, match='does not fit the model: .* another shape'):
        PGSegInferencer(config(backbone=backbone), checkpoint)
    backbone = dict(tiny_model_cfg()['backbone'], depths=(1, 1, 2))
    with pytest.raises(CheckpointError, match='it lacks backbone.stages'):
        PGSegInferencer(config(backbone=backbone), checkpoint)


def test_weights_for_training_only_may_be_missing_and_unknown_ones_are_named(checkpoint, log):
    head = dict(tiny_model_cfg()['decode_head'], text_prototypes=dict(type='TextPrototypes'))
    PGSegInferencer(config(decode_head=head), checkpoint)
    assert not log
    content = torch.load(checkpoint, weights_only=True)
    content['state_dict']['decode_head.conv_seg.weight'] = torch.ones(1)
    torch.save(content, checkpoint)
    PGSegInferencer(config(), checkpoint)
    assert 'does not use: decode_head.conv_seg.weight' in log[-1]


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return print, ('this ran',)

    content = dict(state_dict=tiny_model().state_dict(), meta=Payload())
    torch.save(content, tmp_path / 'hostile.pth')
    PGSegInferencer(config(), tmp_path / 'hostile.pth')
