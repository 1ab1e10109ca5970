"""Configs that checkpoints carry: text that is read, and that asks for nothing but this project."""

import logging
import os

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from groupvits import small_config, small_groupvit, write_folder
from model_zoo import lively_model, tiny_model_cfg
from odd_images import picture
from pgseg_mm import limits
from pgseg_mm.apis import PGSegInferencer
from pgseg_mm.apis.model import config_and_weights
from pgseg_mm.checkpoints import hugging_face_to_mm, locate, release_to_mm
from pgseg_mm.checkpoints.architecture import check_prototypes, model_of_config
from pgseg_mm.checkpoints.carried_config import config_of
from pgseg_mm.checkpoints.config_text import read_config_text
from pgseg_mm.checkpoints.mm_checkpoint import architecture_of, save_mm
from pgseg_mm.checkpoints.release import mm_to_release
from pgseg_mm.serialization.loading import CheckpointError, load_checkpoint

WORDS = 'dog . red car . grass'
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 32), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]


@pytest.fixture(scope='module')
def converted(tmp_path_factory):
    """A converted checkpoint of a small GroupViT."""
    folder = tmp_path_factory.mktemp('converted')
    theirs = small_groupvit()
    conversion = hugging_face_to_mm(theirs.state_dict(), theirs.config.to_dict())
    save_mm(folder / 'converted.pth', conversion, 'groupvit', [])
    return folder / 'converted.pth'


@pytest.fixture
def log():
    """Warnings in the log."""
    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    logger, handler = MMLogger.get_current_instance(), Handler(logging.WARNING)
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def image() -> np.ndarray:
    noise = np.random.default_rng(0).integers(-40, 40, (60, 90, 3))
    return np.clip(np.asarray(picture(60, 90)) + noise, 0, 255).astype(np.uint8)


def tiny_config(**settings) -> Config:
    return Config(dict(model=tiny_model_cfg(), test_pipeline=PIPELINE, **settings))


def trained(path, cfg: Config | str | None, **meta):
    """A checkpoint as mmengine's Runner saves it."""
    text = cfg.pretty_text if isinstance(cfg, Config) else cfg
    carried = {} if text is None else {'cfg': text}
    torch.save({'state_dict': lively_model().state_dict(), 'meta': {**carried, **meta}}, path)
    return path


def same(one: PGSegInferencer, other: PGSegInferencer, **options) -> None:
    """Compare all scores of two inferencers."""
    (found,) = one(image(), scores='dense', **{'classes': WORDS, **options})
    (expected,) = other(image(), scores='dense', **{'classes': WORDS, **options})
    assert found.classes == expected.classes
    np.testing.assert_array_equal(found.mask, expected.mask)
    assert np.array_equal(found.scores, expected.scores)


@pytest.mark.parametrize(
    'options', [{}, {'background': True}, {'classes': None, 'vocabulary': 'voc21'}]
)
def test_a_converted_checkpoint_predicts_as_with_the_published_config(converted, options):
    alone = PGSegInferencer(converted, device='cpu')
    given = PGSegInferencer(small_config(), converted, 'cpu')
    same(alone, given, **options)
    for name in ('voc21', 'context60', 'coco_object', None):
        assert alone.default_threshold(name) == given.default_threshold(name)
    assert alone.model.test_cfg == given.model.test_cfg


def test_folders_of_hugging_face_need_no_config(tmp_path, monkeypatch):
    monkeypatch.setenv('PGSEG_CACHE', str(tmp_path / 'cache'))
    folder = write_folder(small_groupvit(), tmp_path / 'model', 'bin')
    same(PGSegInferencer(folder), PGSegInferencer(small_config(), folder))
    assert 'pgseg_mm' in load_checkpoint(locate(folder)).extras['meta']['cfg']


def test_a_converted_release_of_pgseg_has_its_prototypes_in_the_config(tmp_path):
    released = mm_to_release(lively_model().state_dict()).state_dict
    conversion = release_to_mm(released, num_heads=(3, 3, 3))
    save_mm(tmp_path / 'a.pth', conversion, 'pgseg', list(released))
    cfg = config_of(tmp_path / 'a.pth')
    assert cfg.model.backbone.prototypes.hidden_channels == 16
    assert cfg.background_thresholds['coco_object'] == 0.85  # GroupViT's is 0.95
    assert PGSegInferencer(tmp_path / 'a.pth')(image(), WORDS)[0].error is None


def test_older_converted_checkpoints_get_the_config_of_their_architecture(converted, tmp_path):
    content = torch.load(converted, weights_only=False)
    del content['meta']['cfg']
    torch.save(content, tmp_path / 'old.pth')
    same(PGSegInferencer(tmp_path / 'old.pth'), PGSegInferencer(converted))


def test_a_trained_checkpoint_predicts_as_with_its_config(tmp_path):
    cfg = tiny_config(background_thresholds=dict(voc21=0.2))
    path = trained(tmp_path / 'epoch_1.pth', cfg)
    alone = PGSegInferencer(path)
    same(alone, PGSegInferencer(cfg, path))
    assert alone.default_threshold('voc21') == 0.2
    loader = dict(dataset=dict(type='RepeatDataset', dataset=dict(pipeline=PIPELINE)))
    other = Config(dict(model=tiny_model_cfg(), test_dataloader=loader))
    same(PGSegInferencer(trained(tmp_path / 'other.pth', other)), alone)


def test_settings_of_a_training_and_of_its_machine_play_no_part(tmp_path, monkeypatch):
    monkeypatch.setenv('PGSEG_CACHE', str(tmp_path / 'cache'))
    model = tiny_model_cfg(class_embed_cache=str(tmp_path / 'elsewhere'))
    model['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='/nowhere/a.pth')
    load = dict(type='LoadImageFromFile', backend_args=dict(backend='memcached', sys_path='/a'))
    cfg = Config(
        dict(
            model=model,
            work_dir='/nowhere',
            load_from='/nowhere/b.pth',
            test_pipeline=[load, *PIPELINE[1:]],
        )
    )
    PGSegInferencer(trained(tmp_path / 'a.pth', cfg))(image(), WORDS)
    assert not (tmp_path / 'elsewhere').exists() and (tmp_path / 'cache').is_dir()


def test_one_that_is_given_wins_and_what_no_shape_tells_is_said(tmp_path, log):
    path = trained(tmp_path / 'a.pth', tiny_config())
    cfg = tiny_config()
    cfg.model.backbone.num_heads = 2
    model = PGSegInferencer(cfg, path).model
    assert model.backbone.stages[0].blocks[0].attn.num_heads == 2
    assert any('num_heads (3, 3, 3) instead of (2, 2, 2)' in message for message in log)
    log.clear()
    PGSegInferencer(tiny_config(), path)
    assert not log


def test_a_model_that_pools_softly_predicts_by_its_own_config(tmp_path, log):
    cfg = tiny_config()
    cfg.model.backbone.hard_assign = False
    path = trained(tmp_path / 'a.pth', cfg)
    same(PGSegInferencer(path), PGSegInferencer(cfg, path))
    assert not PGSegInferencer(path).model.backbone.stages[0].grouping.assign.hard
    assert not log
    PGSegInferencer(tiny_config(), path)
    assert any('hard_assign False instead of True' in message for message in log)


@pytest.mark.parametrize(
    ('name', 'value'), [('start', 'farthest'), ('temperature', 0.1), ('num_iters', 3)]
)
def test_prototypes_of_another_clustering_are_said_and_not_converted(tmp_path, log, name, value):
    cfg = tiny_config()
    cfg.model.backbone.prototypes[name] = value
    path = trained(tmp_path / 'a.pth', cfg)
    same(PGSegInferencer(path), PGSegInferencer(cfg, path))
    assert not log
    PGSegInferencer(tiny_config(), path)
    assert any(f'{name} {value} of the prototypes instead of' in message for message in log)
    cfg.dump(tmp_path / 'a.py')
    refused = f'its prototypes have {name}={value!r}'
    with pytest.raises(CheckpointError, match=refused):
        architecture_of(load_checkpoint(path))
    with pytest.raises(CheckpointError, match=refused):
        model_of_config(tmp_path / 'a.py')


def test_prototypes_of_another_kind_are_not_converted():
    check_prototypes({'type': 'mmseg.NonLearnablePrototypes', 'momentum': 0.5})
    with pytest.raises(CheckpointError, match="its prototypes have type='Mine', num_iters=3"):
        check_prototypes({'type': 'Mine', 'num_iters': 3})


def test_classes_may_be_named_with_their_modules(tmp_path):
    cfg = tiny_config()
    cfg.model.type = 'pgseg_mm.models.PGSeg'
    cfg.model.backbone.type = 'pgseg_mm.models.backbones.pgseg_vit.PGSegViT'
    path = trained(tmp_path / 'a.pth', cfg)
    assert config_of(path).model.backbone.type == 'PGSegViT'
    same(PGSegInferencer(path), PGSegInferencer(tiny_config(), path))
    cfg.model.backbone.type = 'pgseg_mm.cli.launch.subprocess.Popen'
    with pytest.raises(CheckpointError, match="asks for 'pgseg_mm.cli.launch.subprocess.Popen'"):
        config_of(trained(tmp_path / 'b.pth', cfg))


def test_words_may_look_like_paths(tmp_path):
    words = dict(templates=['a photo and/or drawing of a {}.'], vocabulary=['cat/dog', 'a.txt'])
    cfg = Config(dict(model=tiny_model_cfg(**words), test_pipeline=PIPELINE))
    assert PGSegInferencer(trained(tmp_path / 'a.pth', cfg)).model.templates
    cfg.model.vocabulary = '/etc/passwd'
    with pytest.raises(CheckpointError, match='nothing is read or fetched'):
        config_of(trained(tmp_path / 'b.pth', cfg))


def test_another_naming_and_contrast_are_said(tmp_path, log):
    cfg = tiny_config()
    cfg.model.decode_head.update(
        naming='mixture', loss_contrastive=dict(type='RegionTextContrast', temperature=0.1)
    )
    path = trained(tmp_path / 'a.pth', cfg)
    assert PGSegInferencer(tiny_config(), path).model.decode_head.naming == 'affinity'
    (message,) = log
    assert 'naming mixture instead of affinity and captions compared with regions' in message
    log.clear()
    PGSegInferencer(cfg, path)
    assert not log
    text = cfg.pretty_text.replace("naming='mixture'", "naming='x\\x1b[2J' + 900 * 'y'", 1)
    assert 'x1b' in text
    PGSegInferencer(tiny_config(), trained(tmp_path / 'b.pth', text.replace(" + 900 * 'y'", '')))
    assert log and not any('\x1b' in message for message in log)


def test_a_mismatch_names_what_differs(converted):
    with pytest.raises(CheckpointError) as error:
        PGSegInferencer(tiny_config(), converted, 'cpu')
    message = str(error.value)
    assert 'embed_dims (64, 64, 64) instead of (24, 24, 24)' in message and '\n' not in message
    assert 'num_heads' not in message
    assert len(message) < 900


def test_the_one_function_that_scripts_call(converted):
    for arguments in ((None, converted), (converted,), (str(converted), None)):
        cfg, weights = config_and_weights(*arguments)
        assert cfg.model.backbone.depths == (1, 1, 1) and weights in (converted, str(converted))
    given = small_config()
    assert config_and_weights(given, converted) == (given, converted)
    with pytest.raises(ValueError, match='needs weights'):
        config_and_weights(given)
    with pytest.raises(FileNotFoundError, match='config file not found'):
        config_and_weights('absent.py')
    with pytest.raises(FileNotFoundError, match='no published model has this name'):
        config_and_weights('groupvit-gc-yfcc')


def test_plain_weights_need_a_config(tmp_path):
    path = trained(tmp_path / 'plain.pth', None)
    with pytest.raises(CheckpointError, match=r'carries none.*Give the config') as error:
        PGSegInferencer(path)
    assert '\n' not in str(error.value)
    PGSegInferencer(tiny_config(), path)


def text_with(old: str, new: str) -> str:
    text = tiny_config().pretty_text
    assert old in text
    return text.replace(old, new, 1)


HOSTILE = {
    'a module': (lambda t: text_with("type='PGSegHead'", "type='os.mkdir'"), "'os.mkdir'"),
    'a scope': (lambda t: text_with("type='PGSegHead'", "type='evil.PGSegHead'"), "'evil.PGS"),
    'a class of others': (
        lambda t: text_with("type='PGSegHead'", "type='mmseg.TIMMBackbone'"),
        'is not of pgseg_mm',
    ),
    'a transform': (lambda t: text_with("type='Resize'", "type='shutil.rmtree'"), 'test_pipeline'),
    'a package': (
        lambda t: text_with("type='PGSegHead'", "_scope_='evil', type='PGSegHead'"),
        '_scope_',
    ),
    'a fetch': (
        lambda t: text_with('text_encoder=dict(', "text_encoder=dict(name='hf-hub:a/b', "),
        'nothing is read or fetched',
    ),
    'a file': (
        lambda t: text_with("type='PGSeg')", f"vocabulary={t!r}, type='PGSeg')"),
        'nothing is read or fetched',
    ),
    'a file of embeddings': (
        lambda t: text_with("type='PGSegHead'", "class_embeds='a.npz', type='PGSegHead'"),
        'nothing is read or fetched',
    ),
    'code': (lambda t: f"model = __import__('os').mkdir({t!r})", 'no model of plain values'),
    'a call': (lambda t: text_with("type='PGSegHead'", f'type=exec({t!r})'), 'no model of plain'),
    'unpacking': (lambda t: "model = dict(**{'type': 'PGSeg'})", 'no model of plain values'),
    'many layers': (lambda t: text_with('num_layers=1', 'num_layers=10**9'), 'no model of plain'),
    'more layers': (lambda t: text_with('num_layers=1', f'num_layers={10**9}'), 'num_layers'),
    'a large image': (lambda t: text_with('img_size=32', f'img_size={2**40}'), 'img_size'),
    'many words': (
        lambda t: text_with('embed_dims=64', f'embed_dims=64, vocab_size={2**40}'),
        'vocab_size',
    ),
    'length': (lambda t: 'a = 1\n' * limits.CONFIG_TEXT_CHARACTERS, 'characters'),
    'depth': (lambda t: f'model = {"[" * 5000}{"]" * 5000}', 'cannot be read'),
    'width': (lambda t: f'model = {"-" * 100_000}1', 'cannot be read'),
    'no Python': (lambda t: 'model = <object at 0x1>', 'cannot be read'),
    'no text': (lambda t: ['model'], 'must be text'),
    'no transforms': (lambda t: tiny_config().pretty_text + '\ntest_pipeline = 3', 'test_pipeline'),
    'no data set': (
        lambda t: tiny_config().pretty_text + '\ntest_dataloader = dict(dataset=dict(dataset=3))',
        'test_dataloader',
    ),
}


@pytest.mark.parametrize('how', HOSTILE)
def test_hostile_configs_are_refused_and_nothing_is_run(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    make, said = HOSTILE[how]
    path = trained(tmp_path / 'a.pth', make(str(tmp_path / 'run')))
    with pytest.raises(CheckpointError, match='without a config') as error:
        PGSegInferencer(path, device='cpu')
    message = str(error.value)
    assert said in message and '\n' not in message and len(message) < 700
    assert os.listdir(tmp_path) == ['a.pth']
    PGSegInferencer(tiny_config(), path, 'cpu')  # the weights are good


@pytest.mark.parametrize(
    ('changes', 'kind'),
    [
        (dict(backbone=5, text_encoder=3, decode_head=1), 'TypeError: cfg should be a dict'),
        (dict(foo=1), 'TypeError'),
        (dict(backbone=dict(tiny_model_cfg()['backbone'], groups=0)), 'TypeError'),
    ],
)
def test_a_config_that_describes_no_model_is_named(tmp_path, changes, kind):
    cfg = Config(dict(model=tiny_model_cfg(**changes), test_pipeline=PIPELINE))
    path = trained(tmp_path / 'a.pth', cfg)
    for given in ((path,), (None, path)):
        with pytest.raises(CheckpointError, match=rf'a\.pth carries a config of which .*{kind}'):
            PGSegInferencer(*given)


def test_code_beside_the_model_is_left_out_with_a_sentence(tmp_path, log):
    code = f'import os\nos.mkdir({str(tmp_path / "run")!r})\n'
    path = trained(tmp_path / 'a.pth', code + tiny_config().pretty_text)
    same(PGSegInferencer(path), PGSegInferencer(tiny_config(), path))
    assert not (tmp_path / 'run').exists()
    assert any(
        '2 statements are code, which is not run: line 1, line 2' in message for message in log
    )


def test_other_modules_are_not_imported_and_named_where_they_are_needed(tmp_path, monkeypatch):
    (tmp_path / 'evil_module.py').write_text(f'open({str(tmp_path / "run")!r}, "w")')
    monkeypatch.syspath_prepend(str(tmp_path))
    imports = dict(imports=['pgseg_mm', 'evil_module'], allow_failed_imports=False)
    path = trained(tmp_path / 'a.pth', tiny_config(custom_imports=imports))
    same(PGSegInferencer(path), PGSegInferencer(tiny_config(), path))
    text = Config(dict(custom_imports=imports)).pretty_text + text_with('PGSegHead', 'TheirHead')
    with pytest.raises(CheckpointError, match=r"'TheirHead'.*wants to import evil_module"):
        PGSegInferencer(trained(tmp_path / 'b.pth', text))
    assert not (tmp_path / 'run').exists()


def test_text_is_read_as_mmengine_writes_it():
    cfg = Config(
        dict(a=dict({'b c': (1, 2.5), '3': None}), d=[True, 'x"\n', -1], e=dict(type='A', f=()))
    )
    assert read_config_text(cfg.pretty_text) == (cfg.to_dict(), ())
