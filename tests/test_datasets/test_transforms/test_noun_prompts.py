import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from mmengine.dataset import worker_init_fn
from mmseg.registry import TRANSFORMS
from torch.utils.data import DataLoader

from pgseg_mm.datasets import NounPrompts, TokenizeCaption
from pgseg_mm.datasets.transforms.noun_prompts import find_nouns
from pgseg_mm.text import PROMPT_TEMPLATES, tokenize

CAPTION = 'a dog and a red cat run on the grass .'


def prompts(caption: str, **kwargs) -> list[str]:
    transform = NounPrompts(**{'templates': ['{}'], **kwargs})
    return transform(dict(caption=caption))['prompts']


@pytest.mark.usefixtures('tiny_tagger')
@pytest.mark.parametrize(
    ('caption', 'nouns'),
    [
        (CAPTION, ['dog', 'cat', 'grass']),
        ('two dogs of Paris', ['dogs', 'Paris']),
        ('the Dog sits and a dog runs', ['Dog']),  # once, whatever its case
        ('a dog. Two dogs sit by the car! very fast', ['dog', 'dogs', 'car']),  # no full stops
        ('<person> runs', ['person']),  # signs that are tagged as nouns are none
        ('very red', []),
        ('', []),
    ],
)
def test_nouns_of_a_caption(caption, nouns):
    assert find_nouns(caption) == nouns


@pytest.mark.usefixtures('tiny_tagger')
def test_as_many_different_nouns_as_there_are():
    np.random.seed(0)
    seen = Counter()
    for _ in range(300):
        drawn = prompts(CAPTION, num_prompts=2)
        assert len(set(drawn)) == 2
        seen.update(drawn)
    assert set(seen) == {'dog', 'cat', 'grass'}
    assert all(count == pytest.approx(200, abs=40) for count in seen.values())
    assert sorted(Counter(prompts(CAPTION, num_prompts=5)).values()) == [1, 2, 2]
    assert prompts('a dog', num_prompts=3) == ['dog'] * 3


@pytest.mark.usefixtures('tiny_tagger')
def test_templates_are_drawn_for_each_prompt():
    np.random.seed(0)
    drawn = [p for _ in range(200) for p in prompts('a dog', templates='openai80')]
    assert set(drawn) == {t.format('dog') for t in PROMPT_TEMPLATES['openai80']}
    assert any(len(set(drawn[i : i + 3])) == 3 for i in range(0, 600, 3))


@pytest.mark.usefixtures('tiny_tagger')
def test_a_caption_without_nouns_is_its_own_prompt():
    assert prompts('very red', templates='openai80') == ['very red'] * 3


@pytest.mark.usefixtures('tiny_tagger')
def test_tokens_of_the_caption_come_first():
    results = NounPrompts(num_prompts=2)(dict(caption=CAPTION))
    results = TokenizeCaption(context_length=16)(results)
    assert results['tokens'].shape == (3, 16)
    assert torch.equal(results['tokens'], tokenize([CAPTION, *results['prompts']], 16))


class Captions(torch.utils.data.Dataset):
    """Captions as a data set of the Runner has them: a transform inside, no image."""

    def __init__(self):
        self.transform = TRANSFORMS.build(dict(type='NounPrompts'))

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> list[str]:
        return self.transform(dict(caption=CAPTION))['prompts']


def in_workers(seed: int) -> list[list[str]]:
    return list(
        DataLoader(
            Captions(),
            batch_size=None,
            num_workers=2,
            worker_init_fn=lambda worker: worker_init_fn(worker, 2, rank=0, seed=seed),
        )
    )


@pytest.mark.usefixtures('tiny_tagger')
def test_workers_of_the_runner_are_reproducible():
    assert in_workers(seed=1) == in_workers(seed=1) != in_workers(seed=2)
    first, second, *_ = in_workers(seed=1)
    assert first != second  # two workers


@pytest.mark.usefixtures('tiny_tagger')
def test_what_a_worker_is_sent_is_small():
    transform = NounPrompts()
    sent = pickle.dumps(transform)
    assert len(sent) < 10_000
    np.random.seed(0)
    expected = transform(dict(caption=CAPTION))['prompts']
    np.random.seed(0)
    assert pickle.loads(sent)(dict(caption=CAPTION))['prompts'] == expected


@pytest.mark.usefixtures('no_tagger')
def test_missing_data_is_told_when_the_pipeline_is_built():
    command = 'python -m nltk.downloader averaged_perceptron_tagger_eng'
    with pytest.raises(LookupError, match=command):
        TRANSFORMS.build(dict(type='NounPrompts'))


def test_without_nltk_the_package_imports_and_the_transform_says_what_to_install():
    code = """
import sys
sys.modules['nltk'] = None
import pgseg_mm
from pgseg_mm.datasets import NounPrompts
try:
    NounPrompts()
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert 'pip install "pgseg-mm[nouns]"' in run.stdout


@pytest.mark.usefixtures('tiny_tagger')
def test_faulty_arguments():
    with pytest.raises(ValueError, match='num_prompts must be at least 1, got 0'):
        NounPrompts(num_prompts=0)
    with pytest.raises(ValueError, match='Unknown template set'):
        NounPrompts(templates='openai81')
    with pytest.raises(KeyError, match="NounPrompts needs 'caption'"):
        NounPrompts()(dict(img_path='cat.png'))
