"""A miniature of Pascal VOC by protocols, through tools/test.py, against plain computations."""

import re
from pathlib import Path

import cv2
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from mmengine.runner import Runner
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

from benchmark_zoo import BENCHMARKS, ROOT, count, run_test_tool
from clip_reference import Reference
from pgseg_mm.cli.protocols import PROTOCOL_FOLDERS
from pgseg_mm.text.vocabulary import SHIPPED
from tiny_open_clip import CLIP, VISION, add_tiny_models, reference_model

NAME = 'tiny-protocol'
MEAN, STD = np.array([122.771, 116.746, 104.094]), np.array([68.501, 66.632, 70.323])
WORDS = [line.split(', ') for line in (SHIPPED / 'sclip/voc21.txt').read_text().splitlines()[1:]]
CLASSES = np.repeat(np.arange(21), [len(words) for words in WORDS])
(VOC21,) = (benchmark for benchmark in BENCHMARKS if benchmark.name == 'voc21')


@pytest.fixture(scope='module')
def clip(tmp_path_factory) -> torch.nn.Module:
    """A tiny CLIP that open_clip knows."""
    text, vision = {**CLIP, 'layers': 1, 'width': 16}, {**VISION, 'layers': 2}
    kind = {'text_cfg': text, 'vision_cfg': vision, 'quick_gelu': True}
    add_tiny_models(tmp_path_factory.mktemp('models'), **{NAME: kind})
    model = reference_model(NAME)
    with torch.no_grad():  # words differ more than those of random weights
        model.token_embedding.weight *= 20
        model.visual.proj *= 4
    return model


@pytest.fixture(scope='module')
def options(clip, tmp_path_factory) -> list[str]:
    """What makes a config of CLIP small; sizes, windows, words and rules stay."""
    path = tmp_path_factory.mktemp('weights') / 'tiny.pt'
    torch.save(clip.state_dict(), path)
    towers = [f'model.{part}' for part in ('backbone', 'text_encoder')]
    return [
        *(f'{tower}.model_name={NAME}' for tower in towers),
        *(f'{tower}.pretrained={path}' for tower in towers),
        'model.decode_head.in_channels=24',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
    ]


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    """A CLIP on a miniature of Pascal VOC with background."""
    VOC21.write(tmp_path / 'data')
    monkeypatch.setenv('PGSEG_DATA_ROOT', str(tmp_path / 'data'))
    path = tmp_path / 'model.py'
    bases = ('models/clip_vit-base-p16', 'benchmarks/voc21', 'default_runtime')
    path.write_text(
        f'_base_ = {[str(ROOT / "configs" / "_base_" / f"{base}.py") for base in bases]}\n'
        'model = dict(backbone=dict(pos_embed="offset"))\n'
    )
    return path


@pytest.fixture(scope='module')
def words(clip) -> torch.Tensor:
    """(56, 24): prompts of unit length, their mean, of unit length."""
    tokenize = open_clip.get_tokenizer(NAME)
    rows = []
    for word in (word for words in WORDS for word in words):
        prompts = tokenize([template(word) for template in OPENAI_IMAGENET_TEMPLATES])
        with torch.no_grad():
            rows.append(F.normalize(clip.encode_text(prompts), dim=-1).mean(0))
    return F.normalize(torch.stack(rows), dim=-1)


def resize(scores: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    return F.interpolate(scores[None], size=size, mode='bilinear', align_corners=False)[0]


class Plain:
    """Word scores of images, from the formulas."""

    def __init__(self, clip: torch.nn.Module, words: torch.Tensor, method: str) -> None:
        weights = {name: value.numpy() for name, value in clip.visual.state_dict().items()}
        self.reference = Reference(weights, heads=2, quick_gelu=True)
        self.words = words
        self.method = method

    def window(self, image: np.ndarray) -> torch.Tensor:
        features = self.reference.features(image, self.method, offset=0.1)
        features = F.normalize(torch.from_numpy(features), dim=-1)
        return resize((features @ self.words.T).permute(2, 0, 1), image.shape[1:])

    def scores(self, image: np.ndarray, window: int | None, stride: int) -> torch.Tensor:
        size = image.shape[1:]
        if window is None:
            return self.window(image)
        total, number = torch.zeros(len(self.words), *size).double(), torch.zeros(size).double()
        counts = [-(-max(length - window, 0) // stride) + 1 for length in size]
        for i, j in np.ndindex(*counts):
            bottom, right = min(i * stride + window, size[0]), min(j * stride + window, size[1])
            y, x = slice(max(bottom - window, 0), bottom), slice(max(right - window, 0), right)
            total[:, y, x] += self.window(image[:, y, x])
            number[y, x] += 1
        return total / number


def refined(scores: torch.Tensor, image: np.ndarray) -> torch.Tensor:
    """PAMR of 10 iterations with dilations 8 and 16."""

    def shifted(x: np.ndarray, own: bool) -> np.ndarray:
        padded = np.pad(x, ((0, 0), (16, 16), (16, 16)), 'edge')
        h, w = x.shape[1:]
        steps = [(d * i, d * j) for d in (8, 16) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        steps = [step for step in steps if own or step != (0, 0)]
        return np.stack([padded[:, 16 + i : 16 + i + h, 16 + j : 16 + j + w] for i, j in steps])

    deviation = shifted(image, own=True).std(axis=0, ddof=1)
    logits = (-np.abs(shifted(image, own=False) - image) / (1e-8 + 0.1 * deviation)).mean(1)
    weights = np.exp(logits - logits.max(0))
    weights /= weights.sum(0)
    out = scores.numpy()
    for _ in range(10):
        out = (weights[:, None] * shifted(out, own=False)).sum(0)
    return torch.from_numpy(out)


def decided(scores: torch.Tensor, scale: float, area: float | None) -> np.ndarray:
    """Softmax over words, best word of a class, area rule, threshold of 0.1."""
    words = (scale * scores).softmax(0).numpy()
    classes = np.stack([words[k == CLASSES].max(0) for k in range(21)])
    if area is not None:
        won = np.bincount(classes.argmax(0).ravel(), minlength=21)
        for k in range(1, 21):
            if not won[k] > area * won[1:].sum():
                classes[k] = 0
    best = classes.argmax(0)
    best[classes.max(0) < 0.1] = 0
    return best


@pytest.mark.parametrize(
    ('method', 'window', 'scale', 'area'),
    [('sclip', 224, 65, 0.1), ('naclip', None, 40, None)],
)
def test_areas_are_those_of_a_plain_computation(
    clip, words, config, options, tmp_path, method, window, scale, area
):
    attention = [f'model.backbone.attention={method}', *options]
    arguments = ('--protocol', method, '--out', tmp_path / 'out')
    found = run_test_tool(
        config, 'none', tmp_path / 'work', *arguments, options=attention, double=True
    )

    plain = Plain(clip, words, method)
    confusion = np.zeros((21, 21), int)
    for name in VOC21.names:
        pixels = cv2.imread(str(tmp_path / 'data' / VOC21.image.format(name)))[..., ::-1]
        size = pixels.shape[:2]
        factor = min(2048 / max(size), 336 / min(size))
        height, width = (int(side * factor + 0.5) for side in size)
        image = cv2.resize(np.ascontiguousarray(pixels), (width, height))
        image = ((image - MEAN) / STD).transpose(2, 0, 1)
        scores = resize(plain.scores(image, window, 112), size)
        if method == 'naclip':
            scores = refined(scores, resize(torch.from_numpy(image), size).numpy())
        prediction = decided(scores, scale, area)
        assert np.array_equal(VOC21.prediction(tmp_path / 'out', name), prediction), name
        confusion += count(VOC21.truth(tmp_path / 'data', name), prediction, 21)
    assert (found.areas.intersect.numpy() == confusion.diagonal()).all()
    assert (found.areas.prediction.numpy() == confusion.sum(0)).all()
    predicted = confusion.sum(0) > 0
    assert predicted[0] and predicted.sum() > 2  # background and several classes


def test_a_config_with_a_protocol_among_its_bases(config, options, tmp_path, monkeypatch, capsys):
    config.write_text(
        config.read_text().replace(']\n', f", '{PROTOCOL_FOLDERS[1] / 'trident.py'}']\n", 1)
    )
    configs = []
    monkeypatch.setattr(Runner, 'dump_config', lambda runner: configs.append(runner.cfg))
    changed = 'model.test_cfg.decision.prob_threshold=0.3'
    size = 'test_dataloader.dataset.pipeline.1.scale=(900,300)'
    words = 'custom_hooks.0.vocabulary=voc21'
    own = ['model.templates=simple', 'model.normalize_prompts=False', changed, size, words]
    small = [*options, *own]
    run_test_tool(config, 'none', tmp_path / 'work', '--allow-partial', options=small)
    assert 'trident on voc21: how Trident rounds' in capsys.readouterr().out
    (cfg,) = configs
    assert cfg.applied_protocol.protocol == 'trident' and 'protocol' not in cfg
    assert cfg.model.test_cfg.crop_size == (336, 336) and cfg.model.test_cfg.window_divisor == 56
    assert cfg.model.test_cfg.image_divisor == 'patch'
    assert cfg.test_pipeline[1].scale == (2048, 448)
    applied = cfg.applied_protocol
    assert applied.templates == 'simple' and applied.prob_threshold == 0.3
    assert (applied.short_side, applied.long_side, applied.words) == (300, 900, 'voc21')
    assert applied.normalize_prompts is False and applied.scores == 'cosine' and applied.notes
    assert applied.image_divisor == 'patch' and applied.window == 336
    assert cfg.model.test_cfg.decision.prob_threshold == 0.3


def test_what_does_not_go_together_is_refused(config, options, tmp_path, capsys):
    def said(*arguments: str) -> str:
        with pytest.raises(SystemExit) as leaving:
            run_test_tool(config, 'none', tmp_path / 'work', *arguments, options=options)
        assert leaving.value.code == 2
        return re.sub(r'\s+', ' ', capsys.readouterr().err.rpartition('error: ')[2])

    assert 'leave --tta out' in said('--protocol', 'sclip', '--tta')
    assert "there is no protocol 'sclop'; choose one of clearclip," in said('--protocol', 'sclop')
    config.write_text(config.read_text() + 'benchmark = dict(name="voc20")\n')
    assert 'how voc20 is evaluated by the groupvit protocol is' in said('--protocol', 'groupvit')
    config.write_text(config.read_text().replace('benchmark =', 'benchmark = None #'))
    assert 'needs to know the benchmark' in said('--protocol', 'sclip')
