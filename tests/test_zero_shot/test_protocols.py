"""Protocols by name, against what the methods' own repositories say."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from mmseg.registry import TRANSFORMS

from benchmark_zoo import ROOT
from pgseg_mm.cli.config_files import ConfigError
from pgseg_mm.cli.protocol_notes import notes_on, scores_of
from pgseg_mm.cli.protocols import (
    apply_protocol,
    as_protocol,
    protocol_names,
    read_protocol,
    settings_of,
    with_threshold,
)
from pgseg_mm.models import OpenVocabSegmentor
from pgseg_mm.models.inference.decision import as_decision
from pgseg_mm.models.inference.pamr import as_pamr
from pgseg_mm.models.segmentors.checks import check_test_cfg, encoded_size, window_settings
from pgseg_mm.text import PROMPT_TEMPLATES, Vocabulary

BENCHMARKS = [
    *('voc21', 'voc20', 'context60', 'context59'),
    *('coco_object', 'coco_stuff', 'ade20k', 'cityscapes'),
]
WITH_BACKGROUND = ('voc21', 'context60', 'coco_object')
# Short side, window and stride in pixels ('whole': no windows), in the order of BENCHMARKS; '-' is
# not known. Read from the configs of the repositories.
SIZES = dict(
    groupvit='448/448/224 - 448/448/224 - 448/448/224 - - -',
    pgseg='448/448/224 - 448/448/224 - 448/448/224 - - -',
    tcl=' '.join(['448/448/224'] * 8),
    sclip=' '.join([*['336/224/112'] * 5, '448/224/112 336/224/112 560/224/112']),
    naclip=' '.join(['336/whole 336/whole', *['336/224/112'] * 5, '560/224/112']),
    clearclip=' '.join([*['448/448/224'] * 7, '448/224/224']),
    proxyclip=' '.join([*['336/336/112'] * 6, '448/336/112 448/224/112']),
    trident='448/336/224 336/336/112 576/336/224 576/336/224 448/336/224 448/336/224 576/336/224 '
    '688/336/224',
)
PADDED_TO = dict(tcl=16, clearclip=16, proxyclip=56, trident=56)
"""With patches of 16 px."""
# Background: threshold (bg) or constant score (score) | logit scale, p and area threshold a
CONSTANTS = dict(
    groupvit='bg.95 - bg.35 - bg.95 - - -',
    pgseg='bg.95 - bg.36 - bg.85 - - -',
    tcl='score.4 none score.4 none score.4 none none none',
    sclip='65,p.1,a.1 40 50,p.1 40 50,p.1 40 40 40',
    naclip='40,p.1 40 40,p.1 40 40,p.1 40 40 40',
    clearclip='50,p.5 50 50,p.15 50 50,p.4 50 50 50',
    proxyclip='40,p.2 40 40,p.15 40 40,p.25 40 40 40',
    trident='40,p.2 40 40,p.15 40 40,p.25 40 40 40',
)
REFINED = dict(naclip=(10, (8, 16)), tcl=(10, (1, 2, 4, 8, 12, 24)))
# Number of words, words of class 0, and some words by label
NUMBER_OF_WORDS = dict(
    groupvit='21 - 60 - 81 - - -',
    pgseg='21 - 60 - 81 - - -',
    tcl='21 20 60 59 81 171 150 19',
    sclip='56 30 60 59 113 171 150 19',
    naclip='56 30 60 59 113 171 150 19',
    clearclip='21 20 60 59 81 171 150 19',
    proxyclip='46 20 60 59 97 171 150 19',
    trident='46 20 60 59 97 171 150 19',
)
CLASS_0 = dict(sclip=(26, 1, 26), naclip=(26, 1, 26), proxyclip=(26, 1, 17), trident=(26, 1, 17))
"""Number of its words on VOC, Context and COCO-Object; else it is the word background."""
SPELLED = [
    ('sclip', 'voc21', {4: 'ship', 11: 'table', 16: 'pottedplant', 20: 'television monitor'}),
    ('naclip', 'voc20', {3: 'ship', 14: 'person'}),
    ('clearclip', 'voc21', {4: 'ship', 20: 'tvmonitor'}),
    ('tcl', 'voc21', {4: 'boat', 11: 'diningtable', 16: 'pottedplant'}),
    ('groupvit', 'voc21', {4: 'boat', 11: 'table', 16: 'plant', 20: 'monitor'}),
    ('groupvit', 'context60', {1: 'airplane'}),
    ('groupvit', 'coco_object', {5: 'airplane'}),
    ('pgseg', 'coco_object', {5: 'aeroplane'}),
    ('pgseg', 'lvis', {384: 'domestic_ass'}),
    ('pgseg', 'imagenet_s919', {3: 'great_white_shark'}),
    ('sclip', 'cityscapes', {6: 'trafficlight', 11: 'person'}),
    ('tcl', 'cityscapes', {6: 'traffic light'}),
    ('sclip', 'context60', {1: 'aeroplane', 59: 'wood'}),
    ('trident', 'ade20k', {75: 'swivelchair'}),
    ('tcl', 'ade20k', {7: 'bed', 75: 'swivel chair'}),
]
SUBSET = PROMPT_TEMPLATES['subset7']
CLIP_NORM = ([122.771, 116.746, 104.094], [68.501, 66.632, 70.323])
IMAGENET_NORM = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
OF_CLIP = ('sclip', 'naclip', 'clearclip', 'proxyclip', 'trident', 'tcl')
IMAGE_SIZES = [(375, 500), (500, 333), (1024, 2048), (480, 640), (281, 500), (100, 1000), (300, 90)]


def cell(table: dict[str, str], protocol: str, benchmark: str) -> str | None:
    found = table[protocol].split()[BENCHMARKS.index(benchmark)]
    return None if found == '-' else found


KNOWN = [(p, b) for p in SIZES for b in BENCHMARKS if cell(SIZES, p, b)]
UNKNOWN = [(p, b) for p in SIZES for b in BENCHMARKS if not cell(SIZES, p, b)]


@pytest.fixture(scope='module')
def plain() -> dict[tuple[str, str], Config]:
    """A model of CLIP, and PGSeg, on each benchmark, without a protocol."""
    folder = ROOT / 'configs'
    found = {}
    for benchmark in BENCHMARKS:
        cfg = Config.fromfile(
            folder / f'pgseg/zero_shot/pgseg_vit-small-p16_zero-shot_{benchmark}.py'
        )
        found['pgseg', benchmark] = cfg
        clip = copy.deepcopy(cfg)
        clip.model = Config.fromfile(folder / 'clip' / 'clip_vit-base-p16.py').model
        found['clip', benchmark] = clip
    return found


@pytest.fixture
def config(plain):
    """A config under a protocol, with the kind of model that it was made for."""

    def applied(protocol: str, benchmark: str, model: str | None = None) -> Config:
        kind = model or ('clip' if protocol in OF_CLIP else 'pgseg')
        cfg = copy.deepcopy(plain[kind, benchmark])
        apply_protocol(cfg, read_protocol(protocol).settings(benchmark))
        return cfg

    return applied


def resized(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Size by the formula: short side S unless the long one would be over 2048 px."""
    factor = min(2048 / max(size), short_side / min(size))
    return tuple(int(side * factor + 0.5) for side in size)


def again(height: int, width: int) -> tuple[int, int]:
    """Trident's second resize to whole patches of 16 px and windows of 336."""
    if height % 16 == width % 16 == 0:
        return height, width
    longer = max(height, width)
    scale = (longer + -longer % 16) / longer
    sides = (int(side * scale + 1e-9) for side in (height, width))
    return tuple(max(side + -side % 16, 336) for side in sides)


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin, by the formula: the k-th ends at min(k * stride + window, length)."""
    count = -(-max(length - window, 0) // stride) + 1
    return [max(min(k * stride + window, length) - window, 0) for k in range(count)]


def test_all_protocols_and_combinations_are_there():
    assert protocol_names() == sorted(SIZES)
    assert len(KNOWN) + len(UNKNOWN) == 64 and len(UNKNOWN) == 10


@pytest.mark.parametrize(('protocol', 'benchmark'), KNOWN)
def test_sizes_of_images_and_windows(config, protocol, benchmark):
    cfg = config(protocol, benchmark)
    short_side, window, *stride = cell(SIZES, protocol, benchmark).split('/')
    (resize,) = (s for s in cfg.test_dataloader.dataset.pipeline if s.type == 'Resize')
    test_cfg = check_test_cfg(cfg.model.test_cfg)
    divisor = window_settings(test_cfg, patch_size=16)[1]
    assert divisor == PADDED_TO.get(protocol, 1)
    step = TRANSFORMS.build(resize)
    for size in IMAGE_SIZES:
        expected = resized(size, int(short_side))
        assert step(dict(img=np.zeros((*size, 3), np.uint8)))['img'].shape[:2] == expected
        resized_again = encoded_size(test_cfg, 16, expected)
        assert resized_again == (again(*expected) if protocol == 'trident' else expected)
        expected = resized_again
        windows = OpenVocabSegmentor.windows(SimpleNamespace(test_cfg=test_cfg), expected)
        if window == 'whole':
            assert [tuple(w) for w in windows] == [(0, 0, *expected)]
            continue
        side, step_size = int(window), int(stride[0])
        tops, lefts = (starts(length, side, step_size) for length in expected)
        assert [tuple(w) for w in windows] == [
            (y, x, min(y + side, expected[0]), min(x + side, expected[1]))
            for y in tops
            for x in lefts
        ]
    assert cfg.test_pipeline == cfg.test_dataloader.dataset.pipeline  # what a dump shows


@pytest.mark.parametrize(('protocol', 'benchmark'), KNOWN)
def test_constants_of_the_decision_and_the_refinement(config, protocol, benchmark):
    cfg = config(protocol, benchmark)
    expected = cell(CONSTANTS, protocol, benchmark)
    threshold = cfg.model.decode_head.get('background_threshold')
    decision = as_decision(cfg.model.test_cfg.get('decision'))
    if expected.startswith('bg'):
        assert threshold == float(expected[2:]) and decision is None
    elif expected == 'none':
        assert threshold is None and decision is None
    elif expected.startswith('score'):
        assert threshold is None
        assert decision.background_score == float(expected[5:])
        assert decision.prob_threshold is decision.area_threshold is None
    else:
        scale, *rules = expected.split(',')
        values = {rule[0]: float(rule[1:]) for rule in rules}
        assert threshold is None and decision.background_score is None
        assert decision.logit_scale == float(scale)
        assert decision.prob_threshold == values.get('p')
        assert decision.area_threshold == values.get('a')
    pamr = as_pamr(cfg.model.test_cfg.get('pamr'))
    assert (pamr and (pamr.num_iters, pamr.dilations)) == REFINED.get(protocol)
    norm = CLIP_NORM if protocol in OF_CLIP[:-1] else IMAGENET_NORM
    preprocessor = cfg.model.data_preprocessor
    assert [preprocessor.mean, preprocessor.std] == list(norm) and preprocessor.bgr_to_rgb


@pytest.mark.parametrize(('protocol', 'benchmark'), KNOWN)
def test_words_and_templates(config, protocol, benchmark):
    cfg = config(protocol, benchmark)
    (hook,) = (hook for hook in cfg.custom_hooks if hook.type == 'VocabularyHook')
    vocabulary = Vocabulary.from_file(hook.vocabulary)
    own = Vocabulary.from_file(benchmark)  # of mmseg's labels, which other tests hold
    assert len(vocabulary) == len(own)
    assert len(vocabulary.flat_words) == int(cell(NUMBER_OF_WORDS, protocol, benchmark))
    if benchmark in WITH_BACKGROUND:
        number = CLASS_0.get(protocol, (1, 1, 1))[WITH_BACKGROUND.index(benchmark)]
        assert len(vocabulary.words[0]) == number
        assert number > 1 or vocabulary.names[0] == 'background'
    templates = PROMPT_TEMPLATES[cfg.model.get('templates', 'simple')]
    expected = {'tcl': 9, 'groupvit': 1, 'pgseg': 1}.get(protocol, 80)
    assert len(set(templates)) == expected
    assert bool(cfg.model.get('normalize_prompts')) == (expected == 80)


@pytest.mark.parametrize(('protocol', 'benchmark', 'words'), SPELLED)
def test_odd_spellings_stay(protocol, benchmark, words):
    vocabulary = Vocabulary.from_file(read_protocol(protocol).settings(benchmark).words)
    assert {label: vocabulary.names[label] for label in words} == words


def test_words_of_sclip():
    voc = Vocabulary.from_file('sclip/voc21')
    assert voc.words[0][:3] == ('sky', 'wall', 'tree') and voc.words[0][-1] == 'fence'
    assert len(voc.words[15]) == 7 and len(voc.words[20]) == 5
    coco = Vocabulary.from_file('sclip/coco_object')
    assert coco.words[1][-1] == 'body' and len(coco.words[1]) == 8
    assert 'bed' in coco.words[0] and ('bed',) in coco.words  # background and a class
    assert voc.words[1:] == Vocabulary.from_file('sclip/voc20').words
    stripped = {word.strip() for words in coco.words for word in words}
    assert stripped == set(coco.flat_words)


def test_templates_of_tcl():
    seven = [template.replace('bad photo of the', 'bad photo of a') for template in SUBSET]
    assert [*PROMPT_TEMPLATES['tcl']] == [*seven, 'a photo of many {}.', 'a photo of {}s.']
    assert 'a bad photo of the {}.' in SUBSET


@pytest.mark.parametrize(('protocol', 'benchmark'), UNKNOWN)
def test_what_is_unknown_is_not_guessed(protocol, benchmark):
    with pytest.raises(
        ConfigError, match=f'how {benchmark} is evaluated by the {protocol} .* unkn'
    ):
        read_protocol(protocol).settings(benchmark)


@pytest.mark.parametrize('benchmark', WITH_BACKGROUND)
def test_pgsegs_protocol_is_what_its_configs_had(plain, config, benchmark):
    """So maps are the same, bit for bit."""
    before, after = plain['pgseg', benchmark], config('pgseg', benchmark)
    assert {key for key in after if after[key] != before.get(key)} == {'applied_protocol'}
    assert before.keys() <= after.keys()


def test_a_protocol_takes_the_place_of_another(config, plain):
    cfg = config('naclip', 'voc21')
    for name in ('tcl', 'sclip', 'pgseg', 'sclip'):
        apply_protocol(cfg, read_protocol(name).settings('voc21'))
    once = config('sclip', 'voc21')
    once.model.data_preprocessor = cfg.model.data_preprocessor  # TCL's has stayed
    assert cfg.model.decode_head.pop('background_threshold') is None
    assert cfg.model == once.model and cfg.test_dataloader == once.test_dataloader
    assert cfg.custom_hooks == once.custom_hooks
    assert cfg.val_dataloader == plain['clip', 'voc21'].val_dataloader  # a training's own


def test_settings_can_be_read_back(config):
    for protocol, benchmark in KNOWN:
        settings = read_protocol(protocol).settings(benchmark)
        found = settings_of(config(protocol, benchmark), protocol)
        differ = {k for k, v in vars(found).items() if v != getattr(settings, k)}
        assert differ <= {'mean', 'std', 'scores', 'notes', 'logit_scale', 'pamr'}
        assert found.logit_scale == (settings.logit_scale or (settings.background_score and 1))
        assert as_pamr(found.pamr) == as_pamr(settings.pamr)


def test_thresholds_for_other_scores_are_told(config):
    sclip = read_protocol('sclip').settings('voc21')
    assert notes_on(config('sclip', 'voc21'), sclip) == ()
    (note,) = notes_on(config('sclip', 'voc21', 'pgseg'), sclip)
    assert 'for cosines, and the scores of this model are affinities' in note
    assert (
        notes_on(config('sclip', 'voc20', 'pgseg'), read_protocol('sclip').settings('voc20')) == ()
    )
    published = read_protocol('pgseg').settings('voc21')
    cfg = config('pgseg', 'voc21', 'pgseg')
    assert (notes_on(cfg, published), scores_of(cfg)) == ((), 'affinity')
    cfg.model.decode_head.naming = 'mixture'
    (note,) = notes_on(cfg, published)
    assert 'for affinities (0 to 1), and the scores of this model are probabilities by ano' in note
    trident = notes_on(config('trident', 'voc21'), read_protocol('trident').settings('voc21'))
    assert any('scores of windows' in note for note in trident)


@pytest.mark.parametrize(
    ('protocol', 'key'),
    [
        ('pgseg', 'background_threshold'),
        ('tcl', 'background_score'),
        ('naclip', 'prob_threshold'),
    ],
)
def test_a_threshold_of_the_users_own(protocol, key):
    settings = read_protocol(protocol).settings('voc21')
    other = with_threshold(settings, 0.3)
    assert {k for k, v in vars(other).items() if v != getattr(settings, k)} == {key}
    assert getattr(other, key) == 0.3 and with_threshold(settings, None) is settings
    if protocol != 'pgseg':
        with pytest.raises(ConfigError, match='no background on voc20'):
            with_threshold(read_protocol(protocol).settings('voc20'), 0.3)


def test_a_protocol_of_the_users_own(tmp_path, monkeypatch):
    base = ROOT / 'configs' / '_base_' / 'protocols' / 'sclip.py'
    text = f'_base_ = {str(base)!r}\nprotocol = dict(name="mine", stride=56, benchmarks=dict('
    (tmp_path / 'own.py').write_text(f'{text}voc21=dict(prob_threshold=0.2)))\n')
    monkeypatch.chdir(tmp_path)
    for name in ('own.py', str(tmp_path / 'own.py')):
        own = read_protocol(name)
        settings = own.settings('voc21')
        assert (own.name, settings.stride, settings.prob_threshold) == ('mine', 56, 0.2)
        assert settings.words == 'sclip/voc21'


GOOD = dict(short_side=448, long_side=2048, benchmarks=dict(voc21=dict(words='voc21')))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(benchmarks=None), 'protocol must be a dict with benchmarks'),
        (
            dict(benchmarks=dict(voc21=3)),
            "benchmark voc21 of the own protocol must be a dict or 'un",
        ),
        (dict(short_side=None), 'the own protocol on voc21 lacks short_side'),
        (dict(sort_side=3), 'voc21 has sort_side; a protocol has short_side, long_side'),
        (dict(window=224), 'both window and stride'),
        (dict(mean=[1, 2, 3]), 'both mean and std'),
        (dict(prob_threshold=0.1), 'needs a logit_scale'),
        (dict(background_threshold=0.1, logit_scale=40), 'finds class 0 in several ways'),
        (dict(name='a/b'), 'the name of a protocol'),
    ],
)
def test_faulty_protocols_are_refused(change, message):
    as_protocol(GOOD)
    with pytest.raises(ConfigError, match=message):
        as_protocol({**GOOD, **change})


def test_unknown_settings_are_named():
    protocol = as_protocol({**GOOD, 'short_side': 'unknown'})
    with pytest.raises(ConfigError, match='voc21 has unknown settings: short_side; set them'):
        protocol.settings('voc21')


def test_what_cannot_take_a_protocol_is_refused(plain, tmp_path):
    settings = read_protocol('sclip').settings('voc21')
    with pytest.raises(ConfigError, match='there is no protocol .sclop.; choose one of clearclip'):
        read_protocol('sclop')
    (tmp_path / 'empty.py').write_text('a = 1\n')
    with pytest.raises(ConfigError, match=r'has no protocol=dict'):
        read_protocol(str(tmp_path / 'empty.py'))
    cfg = copy.deepcopy(plain['clip', 'voc21'])
    cfg.test_dataloader.dataset.pipeline = [dict(type='LoadImageFromFile')]
    with pytest.raises(ConfigError, match='which has 0'):
        apply_protocol(cfg, settings)
    cfg.model = dict(type='EncoderDecoder', decode_head={})
    with pytest.raises(ConfigError, match='got a EncoderDecoder'):
        apply_protocol(cfg, settings)
