"""PGSegInferencer as people use it; odd images are in test_odd_images.py."""

import copy

import numpy as np
import pytest
import torch
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from PIL import Image

from inferencer_zoo import PIPELINE, WORDS, config, frame, write_images
from model_zoo import lively_model, tiny_model, tiny_model_cfg
from odd_images import picture
from pgseg_mm.apis import PGSegInferencer
from pgseg_mm.models.inference.pamr import PAMR


def expected_mask(inferencer, image, words) -> np.ndarray:
    """The model's own prediction, by its public parts."""
    from mmengine.dataset import Compose

    steps = [dict(type='LoadImageFromNDArray'), PIPELINE[1], PIPELINE[3]]
    packed = Compose(steps)(dict(img=image))
    model = copy.deepcopy(inferencer.model)
    model.set_vocabulary(words)
    batch = dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
    with torch.no_grad():
        return model.test_step(batch)[0].pred_sem_seg.data[0].numpy()


def test_a_mask_has_the_models_classes_at_the_images_size(inferencer):
    (result,) = inferencer(frame(), WORDS)
    assert result.mask.shape == (40, 60) and result.mask.dtype == np.int32
    assert result.classes == tuple(WORDS) and result.error is None
    np.testing.assert_array_equal(result.mask, expected_mask(inferencer, frame(), WORDS))
    assert sum(result.areas.values()) == pytest.approx(1)
    assert list(result.areas.values()) == sorted(result.areas.values(), reverse=True)
    for name, area in result.areas.items():
        assert area == np.mean(result.mask == WORDS.index(name))
    assert (result.scores, result.groups, result.picture) == (None, None, None)


def test_a_file_is_its_array_in_bgr(inferencer, tmp_path):
    path = write_images(tmp_path, 'a.png') / 'a.png'
    for given in (path, str(path)):
        (result,) = inferencer(given, WORDS)
        assert result.path == result.name == str(path)
        np.testing.assert_array_equal(result.mask, inferencer(frame(), WORDS)[0].mask)


def test_from_a_config_and_a_checkpoint(checkpoint, tmp_path, inferencer):
    config().dump(tmp_path / 'tiny.py')
    for model in (tmp_path / 'tiny.py', str(tmp_path / 'tiny.py'), config()):
        made = PGSegInferencer(model, checkpoint, device='cpu')
        np.testing.assert_array_equal(
            made(frame(), WORDS)[0].mask, inferencer(frame(), WORDS)[0].mask
        )
    assert made(frame())[0].classes == ('thing', 'stuff')  # those of the checkpoint


@pytest.mark.parametrize('batch_size', [1, 2, 5])
def test_folders_lists_and_batches_of_any_sizes(inferencer, tmp_path, batch_size):
    folder = write_images(tmp_path, 'b.png', 'a.PNG', 'c.bmp')
    images = [frame(5, (32, 32)), folder, frame(6, (90, 20)), folder / 'c.bmp']
    results = inferencer(images, WORDS, batch_size=batch_size, progress=False)
    assert [r.name.rpartition('/')[2] for r in results] == ['0', 'a.PNG', 'b.png', 'c.bmp', '4',
                                                           'c.bmp']  # fmt: skip
    assert [r.mask.shape for r in results][::4] == [(32, 32), (90, 20)]
    for image, result in zip(images[::2], results[::4], strict=True):
        np.testing.assert_array_equal(result.mask, inferencer(image, WORDS)[0].mask)
    assert not results.failures


def test_frames_are_read_as_results_are_taken(inferencer):
    read = []

    def video():
        for number in range(100):
            read.append(number)
            yield frame(number)

    results = inferencer.stream(video(), WORDS, batch_size=2)
    assert not read
    assert next(results).mask.shape == (40, 60)
    assert read == [0, 1]
    assert [next(results).name for _ in range(3)] == ['1', '2', '3'] and read == [0, 1, 2, 3]


def test_progress_is_shown_for_several_images(inferencer, capsys):
    inferencer([frame(), frame()], WORDS)
    assert '2/2' in capsys.readouterr().err
    inferencer(frame(), WORDS)
    inferencer([frame(), frame()], WORDS, progress=False)
    assert capsys.readouterr().err == ''


def test_the_background_is_what_the_threshold_says(inferencer):
    with_it = inferencer(frame(), WORDS, background=True)[0]
    assert with_it.classes == ('background', *WORDS)
    shares = [
        inferencer(frame(), WORDS, threshold=threshold)[0].areas.get('background', 0)
        for threshold in (0.01, 1.0)
    ]
    assert shares[0] == 0 < shares[1]
    without = inferencer(frame(), ['background', *WORDS], background=False)[0]
    np.testing.assert_array_equal(without.mask, inferencer(frame(), WORDS)[0].mask)
    named = inferencer(frame(), ['dog', 'background', 'red car', 'grass'])[0]
    np.testing.assert_array_equal(named.mask, with_it.mask)


def test_the_threshold_is_that_of_the_call_the_vocabulary_the_model_or_a_default(inferencer):
    head = inferencer.model.decode_head
    limits = []
    inferencer(frame(), WORDS, background=True)
    inferencer(frame(), vocabulary='voc21')
    inferencer(frame(), vocabulary='voc21', threshold=0.3)
    limits = [view.decode_head.background_threshold for view in inferencer._views.kept]
    assert limits[-3:] == [0.95, 0.2, 0.3]
    assert head.background_threshold is None
    cfg = dict(tiny_model_cfg()['decode_head'], background_threshold=0.7)
    assert PGSegInferencer(tiny_model(decode_head=cfg)).default_threshold() == 0.7


def test_thresholds_of_a_rule_are_not_those_of_another(inferencer):
    inferencer(frame(), vocabulary='voc21', naming='mixture')
    inferencer(frame(), vocabulary='voc21', naming='affinity')
    limits = [view.decode_head.background_threshold for view in inferencer._views.kept]
    assert limits[-2:] == [0.5, 0.2]


def test_vocabularies_by_name_or_file(inferencer, tmp_path):
    (result,) = inferencer(frame(), vocabulary='voc21')
    assert len(result.classes) == 21 and result.classes[0] == 'background'
    (tmp_path / 'mine.txt').write_text('dog, puppy\nsky\n')
    (result,) = inferencer(frame(), vocabulary=tmp_path / 'mine.txt')
    assert result.classes == ('dog', 'sky')


def test_synonyms_count_for_their_class(inferencer):
    several = inferencer(frame(), [('dog', 'red car'), 'grass'])[0]
    assert several.classes == ('dog', 'grass')
    model = inferencer.model.with_classes(['dog', 'grass'])
    assert model.num_classes == 2 and several.mask.max() <= 1


def test_the_model_notices_nothing_of_the_calls():
    model = tiny_model(vocabulary=['thing', 'stuff'])
    model.train()
    model.backbone.norm.eval()
    modes = [module.training for module in model.modules()]
    model.eval(), model.predict(torch.rand(1, 3, 32, 32), [SegDataSample()])
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    embeds, state = model.decode_head.class_embeds, copy.deepcopy(model.state_dict())
    inferencer = PGSegInferencer(model)
    streams = [
        inferencer.stream([frame(), frame(1)], words, background=bool(i))
        for i, words in enumerate((WORDS, ['sky', 'sea']))
    ]
    taken = [next(stream).classes for _ in range(2) for stream in streams]
    assert taken == [tuple(WORDS), ('background', 'sky', 'sea')] * 2
    assert model.vocabulary.names == ('thing', 'stuff') and model.num_classes == 2
    assert model.decode_head.class_embeds is embeds
    assert model.decode_head.background_threshold is None
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_words_are_embedded_once_and_again_when_weights_move():
    model = tiny_model()
    calls = []
    model.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    inferencer = PGSegInferencer(model)
    inferencer(frame(), WORDS, background=True)
    inferencer(frame(), WORDS, threshold=0.5)
    inferencer(frame(1), WORDS, background=True, scores='classes', groups=True)
    inferencer(frame(1), WORDS)
    assert len(calls) == 1
    before = inferencer(frame(), WORDS, scores='dense')[0].scores
    model.text_encoder.token_embedding.weight.data.mul_(-3)  # past autograd
    after = inferencer(frame(), WORDS, scores='dense')[0].scores
    assert not np.allclose(before, after)
    fresh = PGSegInferencer(copy.deepcopy(model))(frame(), WORDS, scores='dense')[0].scores
    np.testing.assert_allclose(after, fresh)


def test_scores_on_request(inferencer):
    dense = inferencer(frame(), WORDS, scores='dense')[0]
    assert dense.scores.shape == (3, 40, 60) and dense.scores.dtype == np.float32
    np.testing.assert_array_equal(dense.scores.argmax(0), dense.mask)
    square = frame(size=(32, 32))  # not resized
    dense = inferencer(square, WORDS, scores='dense')[0]
    scores = inferencer(square, WORDS, scores='classes')[0].scores
    for label, score in enumerate(scores):
        won = dense.mask == label
        expected = dense.scores[label][won].mean() if won.any() else 0
        assert score == pytest.approx(expected, rel=1e-4)
    assert scores.max() > 0


def test_groups_and_pictures_on_request(inferencer):
    plain = inferencer(frame(), WORDS, pictures=True)[0]
    result = inferencer(frame(), WORDS, groups=True, pictures=True)[0]
    assert list(result.groups) == [0, 1]
    assert all(groups.shape == (32, 48) for groups in result.groups.values())
    assert result.groups[0].max() < 6 and result.groups[1].max() < 3
    for drawn in (plain.picture, result.picture):
        assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
    assert result.picture.size > plain.picture.size


def test_files_of_masks_and_pictures(inferencer, tmp_path):
    folder = write_images(tmp_path, 'a.png', 'a.bmp')
    out = tmp_path / 'out'
    results = inferencer([folder, frame(7)], WORDS, out_dir=out, progress=False)
    names = ['00000002.png', 'a.png', 'a.png.png']  # a.bmp comes first
    for kind in ('pred', 'vis'):
        assert sorted(path.name for path in (out / kind).iterdir()) == names
    assert (out / 'classes.txt').read_text() == 'dog\nred car\ngrass\n'
    for name, result in zip(('a.png', 'a.png.png', '00000002.png'), results, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(out / 'pred' / name)), result.mask)
        assert result.picture is None and Image.open(out / 'vis' / name).mode == 'RGB'


def test_masks_of_many_classes_have_16_bits(inferencer, tmp_path):
    words = [f'thing {i}' for i in range(300)]
    (result,) = inferencer(frame(), words, out_dir=tmp_path)
    saved = np.asarray(Image.open(tmp_path / 'pred' / '00000000.png'))
    np.testing.assert_array_equal(saved, result.mask)


def test_one_class_takes_all_and_the_log_says_so(inferencer, log):
    for background in (False, True):
        (result,) = inferencer(frame(), ['dog'], background=background)
        assert result.areas == {'dog': 1.0}
    assert log == [message for message in log if "'dog' is the only class" in message] != []


def test_grey_and_transparent_arrays(inferencer):
    grey = frame()[..., 0]
    in_colour = inferencer(np.repeat(grey[..., None], 3, axis=2), WORDS)[0].mask
    for image in (grey, grey[..., None]):
        np.testing.assert_array_equal(inferencer(image, WORDS)[0].mask, in_colour)
    transparent = np.concatenate([frame(), grey[..., None]], axis=2)
    np.testing.assert_array_equal(
        inferencer(transparent, WORDS)[0].mask, inferencer(frame(), WORDS)[0].mask
    )


def test_files_of_other_kinds_in_a_folder_are_counted(inferencer, tmp_path, log):
    write_images(tmp_path, 'a.png')
    (tmp_path / 'notes.txt').write_text('no image')
    assert len(inferencer(tmp_path, WORDS)) == 1
    assert '1 files' in log[-1] and 'notes.txt' in log[-1]
    (tmp_path / 'a.png').unlink()
    with pytest.raises(FileNotFoundError, match='holds no image: none of its 1 files'):
        inferencer(tmp_path, WORDS)


def test_a_text_towers_first_weights_are_not_looked_for(checkpoint, monkeypatch):
    built = {}
    cfg = config()
    cfg.model.text_encoder.pretrained = 'openai'
    monkeypatch.setattr(MODELS, 'build', lambda model: built.update(model) or torch.nn.Linear(1, 1))
    with pytest.raises(TypeError):
        PGSegInferencer(cfg, checkpoint)
    assert built['text_encoder']['pretrained'] is None
    assert cfg.model.text_encoder.pretrained == 'openai'


def test_without_a_config_images_get_the_size_of_the_training():
    model = tiny_model()
    sizes = []
    model.backbone.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[2:]))
    inferencer = PGSegInferencer(model)
    inferencer(np.asarray(picture(64, 96)), WORDS)
    model.test_cfg = dict(mode='slide', crop_size=(48, 48), stride=(24, 24))
    PGSegInferencer(model)(np.asarray(picture(64, 96)), WORDS)
    assert sizes == [(32, 48), (48, 48)]


def test_groups_are_named_by_the_rule_of_a_call(inferencer):
    """The model, and calls that name no rule, keep theirs."""
    plain = inferencer(frame(), WORDS, scores='dense')[0].scores
    found = {
        naming: inferencer(frame(), WORDS, scores='dense', naming=naming)[0].scores
        for naming in ('affinity', 'logits', 'mixture')
    }
    np.testing.assert_array_equal(found['affinity'], plain)
    np.testing.assert_allclose(found['logits'].sum(0), 1, rtol=1e-4)
    np.testing.assert_allclose(found['mixture'].sum(0), 1, rtol=1e-4)
    assert not np.allclose(found['logits'], found['mixture'])
    assert inferencer.model.decode_head.naming == 'affinity'
    np.testing.assert_array_equal(inferencer(frame(), WORDS, scores='dense')[0].scores, plain)
    with pytest.raises(ValueError, match='naming must be one of'):
        inferencer(frame(), WORDS, naming='best')


@pytest.mark.parametrize('naming', ['affinity', 'logits', 'mixture'])
def test_each_rule_leaves_the_background_below_its_threshold(inferencer, naming):
    image = np.asarray(picture(32, 48))  # as large as the model takes it
    plain = inferencer(image, WORDS, scores='dense', naming=naming)[0].scores
    best = plain.max(0)
    threshold = float(np.median(best)) + 1e-6
    found = inferencer(image, WORDS, naming=naming, background=True, threshold=threshold)[0]
    assert found.classes == ('background', *WORDS)
    same = found.mask == np.where(best < threshold, 0, plain.argmax(0) + 1)
    # a mixture is cut in patches, whose maps are enlarged then
    assert same.mean() > 0.8 if naming == 'mixture' else same.all()
    assert 0 < (found.mask == 0).mean() < 1


def test_segments_are_refined_on_request(inferencer, monkeypatch):
    used = []

    def refine(self, scores, affinity):
        used.append((self, affinity.shape))
        return scores.flip(0)

    monkeypatch.setattr(PAMR, 'refine', refine)
    plain = inferencer(frame(), WORDS, scores='dense')[0]
    for off in (None, False):
        np.testing.assert_array_equal(inferencer(frame(), WORDS, pamr=off)[0].mask, plain.mask)
    assert used == []
    for on, settings in ((True, PAMR()), (dict(num_iters=3, dilations=[2]), PAMR(3, (2,)))):
        refined = inferencer(frame(), WORDS, scores='dense', pamr=on)[0]
        np.testing.assert_array_equal(refined.scores, plain.scores[::-1])
        assert used[-1] == (settings, (8 * len(settings.dilations), 40, 60))
    with pytest.raises(ValueError, match='pamr'):
        inferencer(frame(), WORDS, pamr=dict(num_iters=0))


def test_a_threshold_is_that_of_the_models_decision():
    """A model that decides by a softmax over words keeps to that, with any classes."""
    model = lively_model(test_cfg=dict(mode='whole', decision=dict(prob_threshold=0.2)))
    model.cfg = config()
    decided = PGSegInferencer(model)
    assert decided.default_threshold() == 0.2
    names = ['background', *WORDS]
    result = decided(frame(), names, scores='dense')[0]
    assert result.scores.shape[0] == 4
    sure = result.scores.max(0) >= 0.2
    np.testing.assert_array_equal(result.mask, np.where(sure, result.scores.argmax(0), 0))
    assert decided(frame(), names, threshold=1.0)[0].areas == {'background': 1}
    assert decided(frame(), WORDS, scores='dense')[0].scores.shape[0] == 3
