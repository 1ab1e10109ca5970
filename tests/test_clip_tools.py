"""A CLIP without training wherever a model is used: inferencer, demos, tools, and from a hub."""

import importlib.util
import json
import runpy
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

import pgseg_command
from hub_server import HubServer, Model, use_hub
from odd_images import picture
from pgseg_mm.apis import PGSegInferencer
from pgseg_mm.apis.model import build_model
from pgseg_mm.errors import ModelUnavailableError
from pgseg_mm.models import CLIPDenseViT, OpenCLIPTextEncoder
from pgseg_mm.serialization.open_clip_weights import pixel_statistics
from tiny_open_clip import CLIP, VISION, add_tiny_models, reference_model

ROOT = Path(__file__).parents[1]
NAME = 'tiny-everywhere'
KIND = {
    'embed_dim': 24,
    'text_cfg': CLIP,
    'vision_cfg': {**VISION, 'patch_size': 8, 'layers': 2},
    'quick_gelu': True,
}
WORDS = ['dog', 'red car', 'grass']
REST = 'sky, wall\ndog, puppy\ngrass\n'


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> Path:
    """A tiny CLIP that open_clip knows, and a file of its weights."""
    add_tiny_models(tmp_path_factory.mktemp('models'), **{NAME: KIND})
    path = tmp_path_factory.mktemp('weights') / 'tiny.pt'
    torch.save({k: v.float() for k, v in reference_model(NAME).state_dict().items()}, path)
    return path


def small_config(model_name: str, pretrained: str, **test_cfg) -> Config:
    """NACLIP's config with a tiny tower, for images of 48 px."""
    model = Config.fromfile(ROOT / 'configs/clip/naclip_vit-base-p16.py').model
    for part in (model.backbone, model.text_encoder):
        part.update(model_name=model_name, pretrained=pretrained)
    model.decode_head.in_channels = 24
    model.test_cfg.update(crop_size=(32, 32), stride=(16, 16), **test_cfg)
    model.update(templates='simple', class_embed_cache=None)
    resize = dict(type='Resize', scale=(192, 48), keep_ratio=True)
    return Config(dict(model=model, test_pipeline=[dict(type='LoadImageFromFile'), resize]))


@pytest.fixture
def place(weights, tmp_path, monkeypatch) -> Path:
    """A folder with a config and an image in it, where tools are run."""
    small_config(NAME, str(weights)).dump(tmp_path / 'clip.py')
    rule = dict(logit_scale=40, prob_threshold=0.4)
    small_config(NAME, str(weights), decision=rule).dump(tmp_path / 'decides.py')
    picture(48, 64).save(tmp_path / 'a.png')
    (tmp_path / 'rest.txt').write_text(REST)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_none_stands_for_the_weights_that_the_towers_start_with(place):
    started = PGSegInferencer('clip.py', 'none', device='cpu')
    result = started('a.png', WORDS, scores='dense')[0]
    assert result.mask.shape == (48, 64) and len(result.areas) > 1
    torch.save(started.model.state_dict(), 'whole.pth')
    loaded = PGSegInferencer('clip.py', 'whole.pth', device='cpu')('a.png', WORDS, scores='dense')
    np.testing.assert_array_equal(loaded[0].scores, result.scores)
    cfg = Config.fromfile('clip.py')
    random = PGSegInferencer(build_model(cfg), device='cpu')('a.png', WORDS, scores='dense')[0]
    assert not np.allclose(random.scores, result.scores, atol=1e-3)
    with pytest.raises(ValueError, match="or 'none' for those that its encoders start with"):
        PGSegInferencer('clip.py')
    cfg.model.text_encoder.pretrained = None
    with pytest.raises(ValueError, match='but it names none .pretrained. for text_encoder'):
        PGSegInferencer(cfg, 'none')


def test_cosines_have_no_default_threshold(place):
    inferencer = PGSegInferencer('clip.py', 'none', device='cpu')
    with pytest.raises(ValueError, match='no default threshold for the scores of DenseCLIPHead'):
        inferencer('a.png', WORDS, background=True)
    assert inferencer('a.png', WORDS, threshold=0.2)[0].classes[0] == 'background'


def test_words_of_class_0_stand_for_all_else(place):
    """A vocabulary is taken as an evaluation takes it; of a user's words, if that is asked for."""
    inferencer = PGSegInferencer('decides.py', 'none', device='cpu')
    words = dict(sky=['wall'], dog=['puppy'], grass=None)

    def asked(*args, **kwargs) -> tuple[tuple, float | None]:
        inferencer('a.png', *args, **kwargs)
        view = inferencer._views.kept[-1]
        return view.vocabulary.words, view.decision.prob_threshold

    rest = (('sky', 'wall'), ('dog', 'puppy'), ('grass',))
    assert asked(vocabulary='rest.txt') == (rest, 0.4)
    assert asked(words, threshold=0.3) == (rest, 0.3)
    assert asked(words, background=True) == (rest, 0.4)
    assert asked(words) == (rest, None)  # synonyms of a class of its own
    assert asked(vocabulary='rest.txt', background=False) == (rest, None)
    own = [('dog', 'puppy'), ('background', 'sky', 'wall')]
    assert asked(own) == ((own[1], own[0]), 0.4)
    assert asked(own, background=False) == ((own[0],), None)
    assert asked(['dog', 'grass'], threshold=0.3)[0] == (('background',), ('dog',), ('grass',))


def test_what_is_unlike_all_words_becomes_class_0(place):
    inferencer = PGSegInferencer('decides.py', 'none', device='cpu')
    results = [
        inferencer('a.png', vocabulary='rest.txt', threshold=threshold, scores='dense')[0]
        for threshold in (1e-3, 0.5, 1.0)
    ]
    probabilities = results[0].scores
    sure = probabilities.max(0) >= 0.5
    best = probabilities.argmax(0)
    np.testing.assert_array_equal(results[0].mask, best)
    np.testing.assert_array_equal(results[1].mask, np.where(sure, best, 0))
    assert results[2].areas == {'sky': 1} and len(np.unique(best)) > 1


def test_image_demo_and_its_command(place, monkeypatch, capsys):
    for command in (
        ['image_demo.py', 'a.png', 'clip.py', 'none'],
        ['segment', 'a.png', '--config', 'decides.py', '--checkpoint', 'none'],
    ):
        options = ['--texts', 'dog . red car . grass', '--device', 'cpu', '--pamr']
        with pytest.raises(SystemExit) as leaving:
            if command[0] == 'segment':
                pgseg_command.main([*command, *options])
            else:
                monkeypatch.setattr(sys, 'argv', [*command, *options])
                runpy.run_path(str(ROOT / 'demo' / 'image_demo.py'), run_name='__main__')
        assert leaving.value.code == 0
        assert 'Pictures in outputs/vis' in capsys.readouterr().out
        assert np.asarray(Image.open('outputs/pred/a.png')).shape == (48, 64)


@pytest.mark.skipif(importlib.util.find_spec('gradio') is None, reason='gradio is not installed')
def test_web_demo(place, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'demo'))
    import web_demo

    served = []
    monkeypatch.setattr(web_demo, 'serve', lambda *args: served.append(args))
    monkeypatch.setattr(web_demo.signal, 'signal', lambda *_: None)
    for option in ([], ['--pamr']):
        arguments = ['--config', 'clip.py', '--checkpoint', 'none', '--device', 'cpu', *option]
        web_demo.main(arguments, 'pgseg web')
    plain, refined = (inferencer for inferencer, _, _ in served)
    assert plain.model.test_cfg.get('pamr') is None and refined.model.test_cfg['pamr'] is True

    class Uploads:
        def read(self, path: str) -> bytes:
            return Path(path).read_bytes()

    answers = [
        web_demo.segment(inferencer, Uploads(), 'a.png', 'dog . red car . grass', False, 0.5)
        for inferencer in (plain, refined)
    ]
    for segments, first_stage, last_stage, legend in answers:
        assert segments.ndim == 3 and first_stage is last_stage is None
        assert all(word in legend for word in WORDS)
    assert not np.array_equal(answers[0][0], answers[1][0])
    *_, legend = web_demo.segment(plain, Uploads(), 'a.png', 'dog . background', False, 0.5)
    assert '>background<' in legend.replace('</span>', '>')
    warned = []
    monkeypatch.setattr(web_demo.gr, 'Warning', warned.append)
    web_demo.segment(plain, Uploads(), 'a.png', 'dog', False, 0.5)
    assert len(warned) == 1
    with web_demo.gr.Blocks():
        assert not web_demo.place_answer(plain.model.makes_groups).first_stage.parent.visible


@pytest.fixture
def tool(place, monkeypatch, capsys):
    def run(path: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, 'argv', [Path(path).name, *map(str, arguments)])
        runpy.run_path(str(ROOT / 'tools' / path), run_name='__main__')
        return capsys.readouterr().out

    return run


def test_words_become_a_file_and_the_model_onnx(tool):
    onnxruntime = pytest.importorskip('onnxruntime')
    shown = tool(
        'misc/embed_vocabulary.py',
        'decides.py',
        'none',
        '--vocabulary',
        'rest.txt',
        '--out',
        'e.npz',
    )
    assert '5 words of 3 classes, 24 channels' in shown
    shown = tool('deployment/pgseg2onnx.py', 'decides.py', 'none', '--class-embeds', 'e.npz')
    assert '32 x 32: onnxruntime differs' in shown
    assert 'test_cfg.decision is not part of the file' in shown
    assert 'its softmax is over words here' in shown
    session = onnxruntime.InferenceSession('model.onnx', providers=['CPUExecutionProvider'])
    meta = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert meta['decision'] == dict(logit_scale=40, prob_threshold=0.4)
    assert meta['classes'] == ['sky', 'dog', 'grass'] and not meta['with_background']
    images = torch.randn(1, 3, 32, 32)
    (scores,) = session.run(None, {'images': images.numpy()})
    model = PGSegInferencer('clip.py', 'none', device='cpu').model.with_classes('rest.txt')
    with torch.no_grad():
        expected = model.encode_decode(images, [dict(img_shape=(32, 32))])
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ('name', 'tag', 'mean'),
    [('ViT-L-14', 'laion2b_s32b_b82k', 127.5), ('ViT-B-16', 'openai', 122.7709)],
)
def test_pixels_that_a_tag_was_trained_on(name, tag, mean):
    """open_clip's own table; a file says nothing."""
    assert pixel_statistics(name, tag)[0][0] == pytest.approx(mean, abs=1e-3)
    assert pixel_statistics(name, 'weights.pt') is None


@pytest.mark.parametrize(
    'settings',
    [
        {},
        [],
        {'mean': 'abc', 'std': [1] * 3},
        {'mean': [0.5] * 4, 'std': [0.5] * 4},
        {'mean': [1e999] * 3},
    ],
)
def test_a_hub_that_says_nothing_of_pixels(settings, tmp_path, monkeypatch):
    path = tmp_path / 'config.json'
    path.write_text(json.dumps({'preprocess_cfg': settings}))
    monkeypatch.setattr(
        'pgseg_mm.serialization.open_clip_weights.download_pretrained_from_hf',
        lambda *_, **__: str(path),
    )
    assert pixel_statistics('tiny', 'hf-hub:a/b') is None
    path.write_text('{')
    with pytest.raises(ModelUnavailableError, match='hf-hub:a/b is no JSON: Expecting'):
        pixel_statistics('tiny', 'hf-hub:a/b')


def test_a_model_of_a_hub(place, weights, monkeypatch):
    """Architecture, tokenizer and weights by one name, for both towers; then without a network."""
    from safetensors.torch import save

    files = {
        'open_clip_config.json': json.dumps(
            {'model_cfg': KIND, 'preprocess_cfg': {'mean': [0.5] * 3, 'std': [0.25] * 3}}
        ).encode(),
        'open_clip_model.safetensors': save(torch.load(weights)),
    }
    name = 'hf-hub:somebody/tiny-clip'
    with HubServer() as server:
        use_hub(monkeypatch, server.url, place / 'home')
        server.models['somebody/tiny-clip'] = Model(files)
        with pytest.warns(
            UserWarning, match=r'pixels of mean=\[127.5, .* std=\[63.75, .*set the former'
        ):
            of_hub = PGSegInferencer(small_config(name, name), 'none', device='cpu')
        cfg = small_config(name, name)
        cfg.model.data_preprocessor.update(mean=[127.5] * 3, std=[63.75] * 3)
        with warnings.catch_warnings():
            warnings.filterwarnings('error', message='The weights of')
            build_model(cfg)
            cfg.model.data_preprocessor.update(
                type='SegDataPreProcessor', mean=[127.5], std=[63.75]
            )
            build_model(cfg)
        result = of_hub('a.png', WORDS, scores='dense')[0]
        for part, missing in (
            (CLIPDenseViT, 'hf-hub:somebody/absent'),
            (OpenCLIPTextEncoder, 'hf-hub:somebody/absent'),
        ):
            with pytest.raises(ModelUnavailableError, match='The config of hf-hub:somebody/absent'):
                part(missing)
            with pytest.raises(
                ModelUnavailableError, match='The weights of hf-hub:somebody/absent'
            ):
                part(name, pretrained=missing)
    of_file = PGSegInferencer('clip.py', 'none', device='cpu')('a.png', WORDS, scores='dense')[0]
    np.testing.assert_array_equal(result.scores, of_file.scores)
    again = PGSegInferencer(small_config(name, name), 'none', device='cpu')
    np.testing.assert_array_equal(again('a.png', WORDS, scores='dense')[0].scores, result.scores)
