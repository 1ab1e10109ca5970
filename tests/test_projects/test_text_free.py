"""A model without its text tower: words to a file, the same predictions, ONNX."""

import ast
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.structures import SegDataSample

from benchmark_zoo import BENCHMARKS, CONFIGS, ROOT, SMALL, run_test_tool, small_checkpoint
from pgseg_mm.apis.model import build_model, load_weights
from pgseg_mm.serialization.loading import load_checkpoint

FULL = CONFIGS / 'pgseg_vit-small-p16_zero-shot_voc21.py'
TEXT_FREE = ROOT / 'projects/text_free/configs/text-free_vit-small-p16_zero-shot_voc21.py'
IMAGE_HALF = [option for option in SMALL if 'text_' not in option]
MODEL = [option for option in SMALL if option.startswith('model.')]
SHORT = ['model.backbone.prototypes.num_iters=2']  # the graph has a copy of each round
ONE_STAGE = [
    f'model.backbone.{key}'
    for key in ('depths=(1,1)', 'num_group_tokens=(8,0)', 'num_output_groups=(8,)')
]
MODEL_IMAGE_HALF = [option for option in MODEL if 'text_' not in option]
SIZES = [(32, 32), (40, 72), (16, 16), (33, 95), (70, 16)]
WORDS = 'background\ndog, puppy\nred car, car\ngrass\n'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> Path:
    """Weights of the small model, with its text tower."""
    return small_checkpoint(tmp_path_factory.mktemp('weights') / 'pgseg.pth')


@pytest.fixture
def tool(monkeypatch, capsys, tmp_path):
    """Runs a tool in this process, from a folder outside of the repository."""
    monkeypatch.chdir(tmp_path)

    def run(path: str, *arguments: object, options: list[str] = MODEL) -> str:
        given = ['--cfg-options', *options] if options else []
        monkeypatch.setattr(sys, 'argv', [Path(path).name, *map(str, arguments), *given])
        runpy.run_path(str(ROOT / 'tools' / path), run_name='__main__')
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(tool, capsys):
    """What a tool says when it refuses its input."""

    def run(*arguments: object, **options: list[str]) -> str:
        with pytest.raises(SystemExit) as leaving:
            tool(*arguments, **options)
        assert leaving.value.code == 2
        return capsys.readouterr().err

    return run


def model_of(config: Path, checkpoint: Path, options: list[str], **settings):
    cfg = Config.fromfile(config)
    pairs = dict(option.split('=') for option in options)
    cfg.merge_from_dict({key: ast.literal_eval(value) for key, value in pairs.items()})
    cfg.merge_from_dict({f'model.{key}': value for key, value in settings.items()})
    model = build_model(cfg)
    load_weights(model, checkpoint)
    return model


def test_evaluates_as_the_full_model_does(tool, checkpoint, tmp_path, monkeypatch):
    benchmark = BENCHMARKS[0]
    benchmark.write(tmp_path / 'data')
    monkeypatch.setenv('PGSEG_DATA_ROOT', str(tmp_path / 'data'))
    monkeypatch.setenv('PGSEG_CACHE', str(tmp_path / 'cache'))
    shown = tool('misc/embed_vocabulary.py', FULL, checkpoint, '--vocabulary', 'voc21')
    assert '20 words of 21 classes, the background left to its threshold, 20 channels' in shown
    assert np.load('class_embeds.npy').shape == (20, 20)
    tool('misc/publish_model.py', checkpoint, 'image_half.pth', '--text-free', options=[])
    (published,) = tmp_path.glob('image_half-*.pth')

    full = run_test_tool(FULL, checkpoint, tmp_path / 'full', options=SMALL)
    freed = run_test_tool(TEXT_FREE, published, tmp_path / 'freed', options=IMAGE_HALF)
    for areas, others in zip(full.areas, freed.areas, strict=True):
        np.testing.assert_array_equal(areas, others)
    assert (full.areas.prediction > 0).sum() > 2


@pytest.mark.parametrize('threshold', [None, 0.3])
@pytest.mark.parametrize('words', ['a word a class', 'synonyms'])
def test_predicts_as_the_full_model_does(tool, checkpoint, tmp_path, threshold, words):
    vocabulary = tmp_path / 'words.txt'
    vocabulary.write_text(WORDS if words == 'synonyms' else 'background\ndog\ncar\ngrass\n')
    embeds = tmp_path / ('embeds.npz' if words == 'synonyms' else 'embeds.npy')
    options = [*MODEL, f'model.decode_head.background_threshold={threshold}']
    arguments = (FULL, checkpoint, '--vocabulary', vocabulary, '--out', embeds)
    tool('misc/embed_vocabulary.py', *arguments, options=options)
    settings = {'decode_head.background_threshold': threshold, 'test_cfg': dict(mode='whole')}
    full = model_of(FULL, checkpoint, MODEL, vocabulary=str(vocabulary), **settings)
    settings['decode_head.class_embeds'] = str(embeds)
    freed = model_of(TEXT_FREE, checkpoint, MODEL_IMAGE_HALF, **settings)
    assert not any('text' in name for name in freed.state_dict())
    torch.manual_seed(0)
    found = set()
    for height, width in SIZES:
        image = torch.randn(1, 3, height, width)
        meta = dict(img_shape=(height, width), ori_shape=(height + 9, 2 * width))
        with torch.no_grad():
            ours, theirs = (
                model.predict(image, [SegDataSample(metainfo=meta)])[0].pred_sem_seg.data
                for model in (full, freed)
            )
        assert ours.shape == (1, height + 9, 2 * width)
        assert torch.equal(ours, theirs)
        found.update(ours.unique().tolist())
    assert len(found) > 1


def test_label_maps_tune_it(tool, checkpoint, tmp_path, monkeypatch):
    """With an embedding of the background's word the head has a logit for every class."""
    BENCHMARKS[0].write(tmp_path / 'data')
    monkeypatch.setenv('PGSEG_DATA_ROOT', str(tmp_path / 'data'))
    options = [*MODEL, 'model.decode_head.background_threshold=None']
    tool('misc/embed_vocabulary.py', FULL, checkpoint, '--vocabulary', 'voc21', options=options)
    cfg = Config.fromfile(TEXT_FREE)
    pairs = dict(option.split('=') for option in [*IMAGE_HALF, options[-1]])
    cfg.merge_from_dict({key: ast.literal_eval(value) for key, value in pairs.items()})
    cfg.merge_from_dict(Config.fromfile(ROOT / 'configs/_base_/schedules/adamw.py').to_dict())
    cfg.model.data_preprocessor.size = (32, 32)
    cfg.val_dataloader = cfg.test_dataloader
    crop = dict(type='RandomCrop', crop_size=(32, 32))
    cfg.val_dataloader.dataset.pipeline[1] = dict(type='Resize', scale=(64, 48), keep_ratio=True)
    cfg.train_dataloader = dict(
        batch_size=2,
        sampler=dict(type='InfiniteSampler'),
        dataset={
            **cfg.test_dataloader.dataset,
            'pipeline': [
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
                crop,
                dict(type='PackSegInputs'),
            ],
        },
    )
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=3, val_interval=3)
    for hook in ('data_state', 'step_seed'):  # for resumable loops
        cfg.default_hooks.pop(hook)
    cfg.merge_from_dict(dict(load_from=str(checkpoint), work_dir=str(tmp_path / 'work')))
    monkeypatch.setattr(Config, 'pretty_text', 'formatting takes longer than the run')
    runner = Runner.from_cfg(cfg)
    assert runner.model.num_classes == 21
    before = runner.model.decode_head.class_embeds.clone()
    runner.train()
    assert torch.equal(runner.model.decode_head.class_embeds, before)
    weights = load_checkpoint(checkpoint).state_dict
    moved = {k for k, v in runner.model.state_dict().items() if not torch.equal(v, weights[k])}
    assert {'backbone.patch_embed.weight', 'decode_head.image_projector.fc2.weight'} <= moved
    scalars = runner.message_hub.log_scalars
    assert np.isfinite(scalars['train/loss'].current())
    assert 0 <= scalars['val/mIoU'].current() <= 100


@pytest.mark.parametrize(
    ('threshold', 'stages', 'size', 'naming'),
    [
        (None, ONE_STAGE, (32, 32), 'affinity'),
        (0.3, ONE_STAGE, (32, 32), 'affinity'),
        (None, ONE_STAGE, (32, 32), 'logits'),
        (0.3, [], (64, 48), 'mixture'),
    ],
    ids=['size of the training', 'background', 'logits', 'another size, as a mixture'],
)
def test_onnx_agrees_at_every_size(tool, checkpoint, tmp_path, threshold, stages, size, naming):
    onnxruntime = pytest.importorskip('onnxruntime')
    (tmp_path / 'words.txt').write_text(WORDS)
    options = [*MODEL, *SHORT, *stages, f'model.decode_head.background_threshold={threshold}']
    options.append(f'model.decode_head.naming={naming}')
    arguments = (FULL, checkpoint, '--vocabulary', 'words.txt', '--out', 'embeds.npz')
    tool('misc/embed_vocabulary.py', *arguments, options=options)
    options = [option for option in options if 'text_' not in option]
    arguments = (TEXT_FREE, checkpoint, '--class-embeds', 'embeds.npz', '--out', 'out/model.onnx')
    arguments += ('--dynamic', '--size', *size)
    shown = tool('deployment/pgseg2onnx.py', *arguments, options=options)
    assert shown.count('onnxruntime differs from PyTorch by') == 2
    session = onnxruntime.InferenceSession('out/model.onnx', providers=['CPUExecutionProvider'])
    meta = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert meta['classes'] == ['background', 'dog', 'red car', 'grass']
    assert meta['mean'] == [123.675, 116.28, 103.53]
    assert meta['with_background'] is (threshold is not None)
    assert meta['naming'] == naming

    settings = {
        'decode_head.naming': naming,
        'decode_head.background_threshold': threshold,
        'test_cfg': dict(mode='whole'),
    }
    settings['decode_head.class_embeds'] = 'embeds.npz'
    model = model_of(TEXT_FREE, checkpoint, [*MODEL_IMAGE_HALF, *SHORT, *stages], **settings)
    torch.manual_seed(0)
    for batch, (height, width) in zip([1, 2, 3, 1, 4], SIZES, strict=True):
        images = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            expected = model.encode_decode(images, [dict(img_shape=(height, width))])
        (scores,) = session.run(['scores'], {'images': images.numpy()})
        assert scores.shape == (batch, 4, height, width)
        np.testing.assert_allclose(scores, expected.numpy(), atol=1e-3)


def test_an_onnx_file_that_is_not_right_leaves_what_there_was(tool, checkpoint, monkeypatch):
    pytest.importorskip('onnxruntime')
    options = [*MODEL, *SHORT, *ONE_STAGE, 'model.decode_head.background_threshold=None']
    arguments = (FULL, checkpoint, '--classes', 'dog', 'cat', 'red car')
    tool('misc/embed_vocabulary.py', *arguments, options=options)
    Path('model.onnx').write_bytes(b'an earlier one')
    before = sorted(Path().iterdir())
    monkeypatch.setattr(torch.Tensor, 'median', lambda self: torch.tensor(1.0))
    with pytest.raises(SystemExit, match='model.onnx is not written'):
        arguments = (TEXT_FREE, checkpoint, '--class-embeds', 'class_embeds.npy')
        tool('deployment/pgseg2onnx.py', *arguments, options=[*MODEL_IMAGE_HALF, *ONE_STAGE])
    assert Path('model.onnx').read_bytes() == b'an earlier one'
    assert sorted(Path().iterdir()) == before


def test_onnx_of_one_size_gives_classes(tool, checkpoint):
    onnxruntime = pytest.importorskip('onnxruntime')
    options = [*MODEL, *SHORT, *ONE_STAGE, 'model.decode_head.background_threshold=None']
    arguments = (FULL, checkpoint, '--classes', 'dog', 'cat', 'red car')
    tool('misc/embed_vocabulary.py', *arguments, options=options)
    arguments = (FULL, checkpoint, '--class-embeds', 'class_embeds.npy', '--argmax')
    tool('deployment/pgseg2onnx.py', *arguments, '--size', 40, 72, options=options)
    session = onnxruntime.InferenceSession('model.onnx', providers=['CPUExecutionProvider'])
    assert session.get_inputs()[0].shape == [1, 3, 40, 72]
    image = torch.randn(1, 3, 40, 72)
    (classes,) = session.run(['classes'], {'images': image.numpy()})
    settings = {'decode_head.background_threshold': None, 'test_cfg': dict(mode='whole')}
    model = model_of(
        FULL,
        checkpoint,
        [*MODEL, *SHORT, *ONE_STAGE],
        vocabulary=['dog', 'cat', 'red car'],
        **settings,
    )
    with torch.no_grad():
        expected = model.predict(image)[0].pred_sem_seg.data
    assert np.array_equal(classes, expected.numpy())


def test_errors_say_what_to_do(refused, checkpoint, tmp_path):
    (tmp_path / 'words.txt').write_text(WORDS)
    embed = ('misc/embed_vocabulary.py', FULL, checkpoint, '--vocabulary', 'words.txt')
    said = refused(*embed)
    assert '5 words name 3 classes' in said and 'use --out class_embeds.npz' in said
    assert 'must be a .npy or .npz file' in refused(*embed, '--out', 'embeds.txt')
    said = refused(*embed[:3], '--classes', 'dog', 'cat')
    assert "class 0 must be called 'background', got 'dog'" in said
    state = load_checkpoint(checkpoint).state_dict
    head_alone = {name: state[name] for name in state if name.startswith('decode_head.image')}
    half = tmp_path / 'half.pth'
    torch.save({'state_dict': head_alone}, half)
    said = refused(embed[0], FULL, half, '--classes', 'background', 'dog')
    assert 'does not fit the model: it lacks backbone' in said
    np.save('class_embeds.npy', np.ones((3, 20), np.float32))
    said = refused(embed[0], TEXT_FREE, checkpoint, *embed[3:], options=MODEL_IMAGE_HALF)
    assert 'has no text encoder to embed words with' in said
    said = refused('misc/publish_model.py', half, 'half.pth', '--text-free', options=[])
    assert 'needs a checkpoint with a text encoder' in said
    assert 'no classes: give --class-embeds' in refused(
        'deployment/pgseg2onnx.py', FULL, checkpoint
    )
    assert not Path('model.onnx').exists()


@pytest.mark.parametrize('size', [('4', '32'), ('0', '0'), ('-8', '32'), ('100000', '100000')])
def test_an_impossible_size_is_refused(tool, checkpoint, capsys, size):
    np.save('class_embeds.npy', np.ones((3, 20), np.float32))
    with pytest.raises(SystemExit) as leaving:
        tool('deployment/pgseg2onnx.py', TEXT_FREE, checkpoint, '--size', *size, options=None)
    assert leaving.value.code == 2
    assert 'error: --size' in capsys.readouterr().err
    assert not Path('model.onnx').exists()


@pytest.mark.parametrize('before', [0.5, None])
def test_onnx_names_its_channels_whatever_the_embeddings_were_made_for(tool, checkpoint, before):
    onnxruntime = pytest.importorskip('onnxruntime')
    threshold = 'model.decode_head.background_threshold'
    arguments = (FULL, checkpoint, '--classes', 'background', 'dog', 'grass', '--out', 'embeds.npz')
    if before is None:
        arguments = (FULL, checkpoint, '--classes', 'dog', 'grass', '--out', 'embeds.npz')
    options = [*MODEL, *SHORT, f'{threshold}={before}']
    tool('misc/embed_vocabulary.py', *arguments, options=options)
    after = None if before else 0.5
    arguments = (FULL, checkpoint, '--class-embeds', 'embeds.npz', '--size', 32, 32)
    tool('deployment/pgseg2onnx.py', *arguments, options=[*MODEL, *SHORT, f'{threshold}={after}'])
    session = onnxruntime.InferenceSession('model.onnx', providers=['CPUExecutionProvider'])
    found = json.loads(session.get_modelmeta().custom_metadata_map['classes'])
    assert found == (['dog', 'grass'] if after is None else ['background', 'dog', 'grass'])
    assert session.get_outputs()[0].shape[1] == len(found)


def test_onnx_of_other_names_than_embeddings_is_refused(refused, tool, checkpoint):
    options = [*MODEL, *SHORT, 'model.decode_head.background_threshold=None']
    arguments = (FULL, checkpoint, '--classes', 'dog', 'grass', '--out', 'embeds.npz')
    tool('misc/embed_vocabulary.py', *arguments, options=options)
    content = dict(np.load('embeds.npz'))
    np.savez('embeds.npz', **{**content, 'classes': np.array(['dog', 'cat', 'grass'])})
    arguments = (FULL, checkpoint, '--class-embeds', 'embeds.npz')
    said = refused('deployment/pgseg2onnx.py', *arguments, options=options)
    assert 'names 3 classes, and the model has 2' in said
