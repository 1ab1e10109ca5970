"""Recall and ranks of retrieval: by hand, against all orders of equal candidates, over ranks."""

from itertools import permutations

import numpy as np
import pytest
import torch
from mmseg.registry import METRICS
from torch.nn.functional import normalize

import pgseg_mm.evaluation.image_text_retrieval_metric as retrieval
from distributed import WORLD_SIZE, on_two_ranks
from pgseg_mm.evaluation import ImageTextRetrievalMetric


def sample(image, texts) -> dict:
    return dict(image_embeds=torch.as_tensor(image), text_embeds=torch.as_tensor(texts))


def evaluate(samples: list[dict], **kwargs) -> dict[str, float]:
    metric = METRICS.build(dict(type='ImageTextRetrievalMetric', **kwargs))
    metric.process(None, samples)
    return metric.evaluate(size=len(samples))


def at(degrees: float) -> list[float]:
    radians = np.deg2rad(degrees)
    return [float(np.cos(radians)), float(np.sin(radians))]


def test_three_images_by_hand():
    """Captions stand at angles; the nearer, the more alike. Lengths of vectors do not count."""
    samples = [
        sample(at(0), [at(1), at(170)]),  # its own is the nearest
        sample([3 * x for x in at(90)], [at(100), at(120)]),  # at 95 there is another's
        sample(at(180), [at(95)]),  # 170, 120, 100 and then its own
    ]
    # the nearest image of the captions 1, 170, 100, 120 and 95 is 0, 180, 90, 90 and 90 degrees
    assert evaluate(samples, topk=(1, 2, 3, 4)) == {
        'retrieval/i2t_R@1': pytest.approx(100 / 3),
        'retrieval/i2t_R@2': pytest.approx(200 / 3),
        'retrieval/i2t_R@3': pytest.approx(200 / 3),
        'retrieval/i2t_R@4': pytest.approx(100),
        'retrieval/i2t_median_rank': 2.0,
        'retrieval/t2i_R@1': pytest.approx(60),
        'retrieval/t2i_R@2': pytest.approx(80),
        'retrieval/t2i_R@3': pytest.approx(100),
        'retrieval/t2i_R@4': pytest.approx(100),
        'retrieval/t2i_median_rank': 1.0,
    }


@pytest.mark.parametrize('before', [0, 2])
@pytest.mark.parametrize(('right', 'wrong'), [(1, 0), (1, 3), (2, 3), (3, 1), (2, 0)])
def test_equally_alike_candidates_count_as_in_every_order_once(before, right, wrong):
    orders = list(permutations([True] * right + [False] * wrong))
    ranks = np.array([before + 1 + order.index(True) for order in orders])
    places = retrieval.Places(*(torch.tensor([float(n)]) for n in (before, right, wrong)))
    for k in range(1, 8):
        recall = retrieval.expected_recall(places, k).item()
        assert recall == pytest.approx((ranks <= k).mean(), abs=1e-6)
    assert retrieval.expected_rank(places).item() == pytest.approx(ranks.mean())


@pytest.mark.parametrize(('apart', 'recall'), [(1e-8, 50), (1e-4, 100)])
def test_candidates_are_alike_to_six_decimals(apart, recall):
    image = torch.tensor([1.0, 0.0])
    right = torch.tensor([1.0, 0.0])
    wrong = torch.tensor([1 - apart, (2 * apart) ** 0.5])
    other = torch.tensor([-1.0, 0.0])
    results = evaluate([sample(image, right[None]), sample(other, wrong[None])])
    assert results['retrieval/i2t_R@1'] == pytest.approx(recall)


def test_a_model_that_embeds_all_alike_gets_chance():
    same = torch.randn(64, generator=torch.Generator().manual_seed(0))
    samples = [sample(same, same.repeat(5, 1)) for _ in range(100)]
    results = evaluate(samples)
    assert results['retrieval/t2i_R@1'] == pytest.approx(1)
    assert results['retrieval/t2i_R@10'] == pytest.approx(10)
    assert results['retrieval/t2i_median_rank'] == pytest.approx(50.5)
    assert results['retrieval/i2t_R@1'] == pytest.approx(1)  # 5 of 500 captions
    assert results['retrieval/i2t_median_rank'] == pytest.approx(501 / 6)


def random_samples(number: int) -> list[dict]:
    """Images with one to four captions, some of which are equal."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for index in range(number):
        image = torch.randn(6, generator=generator)
        texts = image + torch.randn(1 + index % 4, 6, generator=generator)
        texts[0] = texts[0].round()
        samples.append(sample(image, texts))
    return samples


def test_ranks_are_those_of_a_sorted_list():
    samples = random_samples(30)
    for entry in samples:
        entry['text_embeds'] += 0.01 * torch.randn(entry['text_embeds'].shape)  # none are equal
    texts = [(n, text) for n, entry in enumerate(samples) for text in entry['text_embeds']]
    ranks = []
    for number, entry in enumerate(samples):
        image = normalize(entry['image_embeds'], dim=0)
        order = sorted(texts, key=lambda pair: -float(image @ normalize(pair[1], dim=0)))
        ranks.append(1 + [owner for owner, _ in order].index(number))
    results = evaluate(samples, topk=3)
    assert results['retrieval/i2t_R@3'] == pytest.approx(100 * np.mean(np.array(ranks) <= 3))
    assert results['retrieval/i2t_median_rank'] == np.median(ranks)


def test_it_does_not_matter_how_much_is_compared_at_a_time(monkeypatch):
    samples = random_samples(30)
    expected = evaluate(samples)
    monkeypatch.setattr(retrieval, 'BLOCK_CELLS', 1)
    assert evaluate(samples) == expected


def run_rank(rank: int, samples: list[dict]) -> dict[str, float]:
    """What a sampler deals out: every second image, the first one again to make them even."""
    metric = ImageTextRetrievalMetric()
    padded = [*samples, samples[0]]
    metric.process(None, padded[rank::WORLD_SIZE])
    return metric.evaluate(size=len(samples))


def test_images_and_captions_of_all_ranks_are_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # mmengine collects there
    samples = random_samples(31)
    assert on_two_ranks(run_rank, samples, folder=tmp_path) == [evaluate(samples)] * WORLD_SIZE


@pytest.mark.parametrize('topk', [0, (), (1, -1)])
def test_refuses_ranks_below_one(topk):
    with pytest.raises(ValueError, match='topk must be one or several numbers of at least 1'):
        ImageTextRetrievalMetric(topk=topk)


def test_refuses_what_cannot_be_ranked():
    metric = ImageTextRetrievalMetric()
    with pytest.raises(ValueError, match=r'cat\.jpg has no caption'):
        metric.process(None, [dict(sample([1.0, 0.0], torch.empty(0, 2)), img_path='cat.jpg')])
    with pytest.raises(ValueError, match='NaN or infinite'):
        metric.process(None, [sample([1.0, 0.0], [[float('nan'), 0.0]])])
