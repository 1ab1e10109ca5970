"""Refinement by the image against the formula, pixel by pixel."""

import itertools

import numpy as np
import pytest
import torch

from pgseg_mm.models.inference.pamr import PAMR, as_pamr


def by_hand(image: np.ndarray, scores: np.ndarray, iterations: int, dilations) -> np.ndarray:
    """The formula in loops."""
    height, width = image.shape[1:]

    def around(y, x):
        for d in dilations:
            for dy, dx in itertools.product((-d, 0, d), repeat=2):
                place = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
                yield (dy, dx) == (0, 0), place

    weights = {}
    for y, x in np.ndindex(height, width):
        places = list(around(y, x))
        values = np.stack([image[:, r, c] for _, (r, c) in places])
        deviation = values.std(axis=0, ddof=1)
        neighbours = [place for centre, place in places if not centre]
        logits = np.array(
            [
                np.mean(-np.abs(image[:, y, x] - image[:, r, c]) / (1e-8 + 0.1 * deviation))
                for r, c in neighbours
            ]
        )
        soft = np.exp(logits - logits.max())
        weights[y, x] = neighbours, soft / soft.sum()
    for _ in range(iterations):
        refined = np.zeros_like(scores)
        for (y, x), (neighbours, soft) in weights.items():
            for weight, (r, c) in zip(soft, neighbours, strict=True):
                refined[:, y, x] += weight * scores[:, r, c]
        scores = refined
    return scores


@pytest.mark.parametrize(
    ('size', 'iterations', 'dilations'),
    [((9, 7), 3, (1, 2)), ((6, 11), 2, (4, 15)), ((5, 5), 1, (1,))],
)
def test_equals_the_formula(size, iterations, dilations):
    rng = np.random.default_rng(0)
    image, scores = rng.standard_normal((3, *size)), rng.standard_normal((2, *size))
    pamr = PAMR(iterations, dilations)
    affinity = pamr.affinity(torch.from_numpy(image))
    assert affinity.shape == (8 * len(dilations), *size)
    torch.testing.assert_close(affinity.sum(0), torch.ones(size, dtype=torch.float64))
    refined = pamr.refine(torch.from_numpy(scores), affinity)
    np.testing.assert_allclose(refined, by_hand(image, scores, iterations, dilations), atol=1e-10)


def test_scores_do_not_cross_an_edge():
    image = torch.zeros(3, 8, 8)
    image[:, :, 4:] = 1
    scores = torch.zeros(1, 8, 8)
    scores[:, :, 4:] = torch.rand(8, 4)
    refined = PAMR(10, (1,)).refine(scores, PAMR(10, (1,)).affinity(image))
    assert refined[:, :, :4].abs().max() < 0.05 < refined[:, :, 4:].min()


def test_a_plain_image_has_no_edges():
    """No deviation, so all neighbours count alike and nothing is divided by zero."""
    affinity = PAMR(1, (1, 3)).affinity(torch.ones(3, 6, 6))
    torch.testing.assert_close(affinity, torch.full_like(affinity, 1 / 16))


@pytest.mark.parametrize(
    'cfg',
    [
        *(dict(num_iters=number) for number in (0, True, 1.5, 10**6)),
        *(dict(dilations=given) for given in ((), (1, 0), 8, (10**9,), (1,) * 17)),
        *(dict(steps=3), 'on'),
    ],
)
def test_faulty_settings_are_refused(cfg):
    with pytest.raises(ValueError, match='pamr'):
        as_pamr(cfg)


def test_on_and_off():
    assert as_pamr(None) is as_pamr(False) is None
    assert as_pamr(True) == PAMR(10, (8, 16)) == as_pamr(dict(dilations=[8, 16]))
