"""Pictures and test-time augmentation by tools/test.py, from config to files."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmseg.registry import MODELS
from PIL import Image

from model_zoo import tiny_model, tiny_model_cfg
from pages import blocks, read_page
from pgseg_mm.cli.run_configs import MODEL_TEST_SETTINGS
from pgseg_mm.models import PGSeg, PGSegTTAModel
from pgseg_mm.models.segmentors.checks import TEST_SETTINGS
from tool_runs import refusal, run_tool, write_pure_python

TOOL = Path(__file__).parents[2] / 'tools' / 'test.py'
CLASSES = ('background', 'apple', 'dog', 'grass')
PALETTE = [[0, 0, 0], [200, 60, 60], [60, 60, 200], [60, 160, 60]]
SIZES = {'berlin/1': (40, 56), 'berlin/2': (33, 70), 'ulm/1': (64, 48)}
"""Images of two folders, two of which have one name."""

FOLDERS = {'img_path': 'images', 'seg_map_path': 'labels'}


def pipeline(*middle: dict) -> list[dict]:
    return [dict(type='LoadImageFromFile'), *middle]


def augmentation(*scales: int, flips: bool) -> list[dict]:
    """A tta_pipeline."""
    probabilities = [0.0, 1.0] if flips else [0.0]
    return pipeline(
        dict(
            type='TestTimeAug',
            transforms=[
                [dict(type='Resize', scale=(2048, side), keep_ratio=True) for side in scales],
                [dict(type='RandomFlip', prob=p, direction='horizontal') for p in probabilities],
                [dict(type='LoadAnnotations')],
                [dict(type='PackSegInputs')],
            ],
        )
    )


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    """A config on three images, with a checkpoint beside it."""
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        for kind, high, shape in (('images', 256, (*size, 3)), ('labels', 4, size)):
            path = tmp_path / kind / f'{name}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, high, shape, np.uint8)).save(path)
    torch.save(dict(state_dict=tiny_model().state_dict()), tmp_path / 'tiny.pth')
    head = dict(tiny_model_cfg()['decode_head'], background_threshold=0.3)
    test_cfg = dict(mode='slide', crop_size=32, stride=16)
    resize = dict(type='Resize', scale=(2048, 32), keep_ratio=True)
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='.png',
        seg_map_suffix='.png',
        metainfo=dict(classes=CLASSES, palette=PALETTE),
        pipeline=pipeline(resize, dict(type='LoadAnnotations'), dict(type='PackSegInputs')),
    )
    cfg = dict(
        _base_=[str(TOOL.parents[1] / 'configs/_base_/default_runtime.py')],
        model=tiny_model_cfg(decode_head=head, test_cfg=test_cfg),
        test_dataloader=dict(
            batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset
        ),
        test_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
        test_cfg=dict(type='TestLoop'),
        custom_hooks=[dict(type='VocabularyHook')],
        tta_model=dict(type='PGSegTTAModel'),
        tta_pipeline=augmentation(32, flips=False),
        work_dir=str(tmp_path / 'work'),
    )
    path = tmp_path / 'tiny.py'
    path.write_text(''.join(f'{key} = {value!r}\n' for key, value in cfg.items()))
    monkeypatch.setenv('LOCAL_RANK', '0')
    return path


@pytest.fixture
def predicted(config, monkeypatch):
    """Runs the tool with arguments and gives the predictions, by their images."""

    def run(*arguments: str, **settings) -> dict[str, np.ndarray]:
        found = {}
        fill = PGSeg.fill_sample

        def remember(model, sample, views):
            fill(model, sample, views)
            path = Path(sample.img_path)
            found[f'{path.parent.name}/{path.stem}'] = sample.pred_sem_seg.data[0].numpy()

        cfg = Config.fromfile(config)
        # MMEngine keeps a visualizer and a logger of each name
        cfg.experiment_name = cfg.visualizer.name = '_'.join([config.parent.name, *arguments])
        cfg.merge_from_dict(settings)
        path = config.with_name('run.py')
        cfg.dump(path)
        with monkeypatch.context() as patch:
            patch.setattr(PGSeg, 'fill_sample', remember)
            patch.setattr(sys, 'argv', ['test.py', str(path), str(config.with_name('tiny.pth'))])
            sys.argv += [*arguments]
            runpy.run_path(str(TOOL), run_name='__main__')
        return found

    return run


def test_every_image_gets_a_picture_of_its_own(predicted, tmp_path):
    plain = predicted('--show-dir', str(tmp_path / 'seen'))
    assert {name: mask.shape for name, mask in plain.items()} == SIZES
    pictures = sorted((tmp_path / 'seen').rglob('*.png'))
    assert [path.name for path in pictures] == [
        'test_berlin_1_1.png',
        'test_berlin_2_2.png',
        'test_ulm_1_3.png',
    ]
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.height > 480  # two rows: there are groups, too


def test_one_plain_view_gives_the_plain_prediction(predicted):
    plain, augmented = predicted(), predicted('--tta')
    assert plain.keys() == augmented.keys() == SIZES.keys()
    for name, mask in plain.items():
        assert (mask == augmented[name]).all()
    assert any(len(np.unique(mask)) > 1 for mask in plain.values())


def test_augmented_views_are_drawn_with_groups(predicted, tmp_path):
    views = augmentation(24, 40, flips=True)
    masks = predicted('--tta', '--show-dir', str(tmp_path / 'seen'), tta_pipeline=views)
    assert {name: mask.shape for name, mask in masks.items()} == SIZES
    for path in (tmp_path / 'seen').rglob('*.png'):
        with Image.open(path) as picture:
            assert picture.height > 480


def test_documented_augmentation_makes_six_views_of_the_original_size(config):
    snippets = blocks(read_page('docs/pictures.md'), 'python')
    (block,) = (text for text in snippets if 'tta' in text)
    cfg = Config.fromstring(block, '.py')
    assert MODELS.get(cfg.tta_model.type) is PGSegTTAModel
    augment = Compose(cfg.tta_pipeline)
    files = {key: str(config.parent / folder / 'ulm/1.png') for key, folder in FOLDERS.items()}
    views = augment(dict(files, reduce_zero_label=False, label_map=None, seg_fields=[]))
    sizes = [tuple(view.shape[1:]) for view in views['inputs']]
    assert sizes == [(597, 448)] * 2 + [(747, 560)] * 2 + [(448, 336)] * 2
    for number, sample in enumerate(views['data_samples']):
        assert sample.gt_sem_seg.shape == sample.ori_shape == SIZES['ulm/1']
        assert sample.flip == bool(number % 2)


def hugging_face_weights() -> dict[str, torch.Tensor]:
    """What a file of transformers' GroupViT holds, as far as a check of names sees it."""
    names = ('vision_model.layernorm.weight', 'text_model.final_layer_norm.weight', 'logit_scale')
    return {name: torch.ones(2) for name in names}


def without(*prefixes: str) -> dict[str, torch.Tensor]:
    """Weights of the tiny model but for some."""
    state = tiny_model().state_dict()
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}


UNFIT = {
    'hugging face': (hugging_face_weights(), 'convert it with tools/model_converters/hf_groupvit'),
    'release': ({'img_encoder.patch_embed.w': torch.ones(2)}, 'model_converters/pgseg2mm.py or'),
    'other names': ({'blocks.0.weight': torch.ones(2)}, 'Give a checkpoint of this model'),
    'no head': (without('decode_head.image_projector.'), r'lacks decode_head.image_projector'),
    'other shape': (
        {**without(), 'backbone.patch_embed.weight': torch.ones(2, 2)},
        '1 entries are of another shape: backbone.patch_embed.weight',
    ),
}


@pytest.mark.parametrize('kind', UNFIT)
@pytest.mark.parametrize('key', ['state_dict', 'model', None])
def test_weights_of_another_model_give_no_figure(config, monkeypatch, capsys, kind, key):
    weights, message = UNFIT[kind]
    path = config.with_name('other.pth')
    torch.save({key: weights} if key else weights, path)
    tail = ('--cfg-options', f'experiment_name={config.parent.name}_{key}')
    said = refusal(monkeypatch, capsys, 'tools/test.py', config, path, *tail)
    assert 'does not fit the model' in said
    assert re.search(message, said)


def evaluated(capsys) -> bool:
    """Whether a mean IoU was reported."""
    said = ''.join(capsys.readouterr())
    return re.search(r'\(test\).* mIoU: \d+\.\d+', said) is not None


def test_what_only_training_needs_may_be_missing(config, monkeypatch, capsys):
    path = config.with_name('converted.pth')
    torch.save({'state_dict': without('decode_head.loss_npr.')}, path)
    tail = ('--cfg-options', f'experiment_name={config.parent.name}', 'resume=True')
    run_tool(monkeypatch, 'tools/test.py', config, path, *tail)
    assert evaluated(capsys)


def test_allow_partial_evaluates_what_fits(config, monkeypatch, capsys):
    path = config.with_name('half.pth')
    torch.save({'state_dict': without('decode_head.')}, path)
    tail = ('--cfg-options', f'experiment_name={config.parent.name}')
    run_tool(monkeypatch, 'tools/test.py', config, path, '--allow-partial', *tail)
    assert evaluated(capsys)


def test_a_naming_rule_is_that_of_the_command(predicted, monkeypatch):
    said = []
    monkeypatch.setattr(
        'builtins.print', lambda *words, **_: said.append(' '.join(map(str, words)))
    )
    plain = predicted()
    named = predicted('--naming', 'mixture')
    assert any((named[name] != plain[name]).any() for name in plain)
    predicted('--naming', 'logits', **{'model.decode_head.background_threshold': 0.4})
    warnings = [text for text in said if 'another naming rule' in text]
    assert len(warnings) == 2 and 'background_threshold=0.4 of the config is for' in warnings[1]


def test_a_setting_of_the_model_is_not_given_to_the_loop(predicted, capsys):
    assert set(MODEL_TEST_SETTINGS) <= TEST_SETTINGS
    with pytest.raises(SystemExit):
        predicted('--cfg-options', 'test_cfg.pamr=None')
    assert 'give model.test_cfg.pamr' in capsys.readouterr().err


@pytest.mark.parametrize('option', [['--tta'], ['--out', 'masks'], ['--show-dir', 'pictures']])
def test_without_a_test_set_that_is_what_is_said(config, monkeypatch, capsys, option):
    tail = (*option, '--cfg-options', 'test_dataloader=None')
    path = config.with_name('tiny.pth')
    assert 'the config has no test_dataloader' in refusal(
        monkeypatch, capsys, 'tools/test.py', config, path, *tail
    )


def test_a_naming_rule_needs_a_model(config, monkeypatch, capsys):
    runtime = Path(__file__).parents[2] / 'configs/_base_/default_runtime.py'
    arguments = (runtime, config.with_name('tiny.pth'), '--naming', 'logits')
    said = refusal(monkeypatch, capsys, 'tools/test.py', *arguments)
    assert 'the config has no model' in said


def test_an_empty_set_is_refused(config, monkeypatch, capsys):
    settings = [
        'test_dataloader.dataset.img_suffix=.jpg',
        f'experiment_name={config.parent.name}',
    ]
    path = config.with_name('tiny.pth')
    arguments = (config, path, '--cfg-options', *settings)
    said = refusal(monkeypatch, capsys, 'tools/test.py', *arguments)
    assert 'the test set has no samples' in said


def test_sections_that_a_test_does_not_need_may_be_none(config, monkeypatch, capsys):
    settings = [
        'train_dataloader=None',
        'train_cfg.max_iters=5',
        'val_cfg=None',
        'val_dataloader.batch_size=1',
        'default_hooks.data_state=None',
        f'experiment_name={config.parent.name}',
    ]
    run_tool(
        monkeypatch,
        'tools/test.py',
        config,
        config.with_name('tiny.pth'),
        '--cfg-options',
        *settings,
    )
    assert evaluated(capsys)


@pytest.mark.parametrize('wrapper', ['RepeatDataset', 'ConcatDataset'])
def test_augmentation_of_wrapped_sets(predicted, config, wrapper):
    inner = Config.fromfile(config).test_dataloader.dataset
    dataset = (
        dict(_delete_=True, type=wrapper, dataset=inner, times=1)
        if wrapper == 'RepeatDataset'
        else dict(_delete_=True, type=wrapper, datasets=[inner, inner])
    )
    masks = predicted('--tta', **{'test_dataloader.dataset': dataset})
    assert {name: mask.shape for name, mask in masks.items()} == SIZES


def in_pure_python_style(config: Path) -> Path:
    """The same config with classes in the place of their names."""
    settings = Config.fromfile(config).to_dict()
    settings['default_hooks'] = dict(visualization=dict(type='PGSegVisualizationHook'))
    resize = dict(type='Resize', scale=(32, 32))
    settings['test_dataloader']['dataset']['pipeline'].insert(1, resize)
    settings['test_evaluator']['type'] = 'ZeroShotIoUMetric'
    return write_pure_python(settings, config.with_name('pure.py'))


def test_configs_in_pure_python_style(config, monkeypatch, tmp_path):
    pure = in_pure_python_style(config)
    assert not isinstance(Config.fromfile(pure).model.type, str)
    folders = ('--out', tmp_path / 'masks', '--show-dir', tmp_path / 'seen')
    for number, flags in enumerate([folders, ('--tta',)]):
        name = f'experiment_name=pure_{number}'
        names = ('--cfg-options', name, f'visualizer.name=pure_{number}')
        run_tool(monkeypatch, 'tools/test.py', pure, config.with_name('tiny.pth'), *flags, *names)
    assert len(list((tmp_path / 'masks').rglob('*.png'))) == len(SIZES)
    assert len(list((tmp_path / 'seen').rglob('*.png'))) == len(SIZES)


@pytest.mark.parametrize(
    ('name', 'arguments'),
    [
        ('tools/misc/print_config.py', ['--graph']),
        ('tools/analysis_tools/get_flops.py', []),
        (
            'tools/analysis_tools/browse_dataset.py',
            ['--split=test', '--not-show', '--output-dir=b'],
        ),
        ('tools/analysis_tools/sweep_threshold.py', ['CHECKPOINT', '--thresholds=0.3']),
        ('tools/analysis_tools/diagnose.py', ['CHECKPOINT', '--max-images=1']),
        ('tools/misc/embed_vocabulary.py', ['CHECKPOINT', '--classes=background', '--out=e.npy']),
        ('demo/image_demo.py', ['CHECKPOINT', '--texts=dog . cat', '--out-dir=seen']),
    ],
)
def test_other_tools_take_pure_python_style(config, monkeypatch, tmp_path, name, arguments):
    monkeypatch.chdir(tmp_path)
    given = [str(config.with_name('tiny.pth')) if a == 'CHECKPOINT' else a for a in arguments]
    if 'embed' in name:
        given[1:2] = ['--classes', 'background', 'dog']
    options = ['--cfg-options', f'experiment_name=pure_{Path(name).stem}']
    options += [f'visualizer.name=pure_{Path(name).stem}']
    first = ['images/ulm/1.png'] if 'image_demo' in name else []
    try:
        run_tool(monkeypatch, name, *first, in_pure_python_style(config), *given, *options)
    except SystemExit as leaving:
        assert not leaving.code  # noqa: PT017
