"""Patches are named by the prototypes that they are mixed of."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pgseg_mm.models import ClusterGrouping, NonLearnablePrototypes, PrototypeRefinement
from pgseg_mm.models.layers.prototype_refinement import seed_grid


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def refined(features: np.ndarray, rows: int, columns: int, scale: float, rounds: int):
    """The formulas of docs/clip.md for one map (D, h, w) whose cells are of one size."""
    width, h, w = features.shape
    x = unit(features.reshape(width, -1).T)
    y = unit(x - x.mean(0))
    cells = y.reshape(rows, h // rows, columns, w // columns, width)
    mu = unit(cells.mean((1, 3)).reshape(-1, width))
    y = scale * y
    for _ in range(rounds):
        z = softmax(y @ mu.T)
        mu = unit((z / z.sum(0)).T @ y)
    share = softmax(y @ mu.T)
    prototypes = (share / share.sum(0)).T @ x
    return (share @ prototypes).T.reshape(width, h, w)


@pytest.mark.parametrize(('number', 'rows', 'columns'), [(1, 1, 1), (4, 2, 2), (6, 2, 3)])
def test_the_mixture_is_that_of_the_formulas(number, rows, columns):
    torch.manual_seed(0)
    features = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    found = PrototypeRefinement(number, scale=7.0, num_iters=3)(features)
    for ours, given in zip(found, features, strict=True):
        expected = refined(given.numpy(), rows, columns, 7.0, 3)
        # the clustering keeps a millionth away from division by zero
        np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)


def test_patches_of_one_kind_get_one_feature():
    """Two kinds of patches and noise: what is left of the noise is that of the mean."""
    torch.manual_seed(0)
    kinds = torch.randn(2, 32)
    left = torch.arange(8).expand(8, 8) < 5
    left[7, 7] = True
    clean = torch.where(left, kinds[0, :, None, None], kinds[1, :, None, None])[None]
    found = PrototypeRefinement(4)(3 * clean + 0.6 * torch.randn(1, 32, 8, 8))
    noise = (F.normalize(found, dim=1) - F.normalize(clean, dim=1)).norm(dim=1)
    assert noise.max() < 0.15
    before = F.normalize(3 * clean + 0.6 * torch.randn(1, 32, 8, 8), dim=1)
    assert (before - F.normalize(clean, dim=1)).norm(dim=1).min() > 0.12


def test_windows_know_nothing_of_each_other_and_may_be_of_any_size():
    torch.manual_seed(0)
    refine = PrototypeRefinement()
    features = torch.randn(3, 6, 5, 9)
    together = refine(features)
    for window, mixed in zip(features, together, strict=True):
        torch.testing.assert_close(refine(window[None])[0], mixed, atol=1e-5, rtol=1e-5)
    assert refine(torch.randn(1, 6, 1, 2)).isfinite().all()  # fewer patches than prototypes


def test_half_precision_is_clustered_in_float32():
    torch.manual_seed(0)
    features = torch.randn(1, 6, 4, 4).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        found = PrototypeRefinement(4)(features)
    torch.testing.assert_close(found, PrototypeRefinement(4)(features.float()))


def test_gradient_reaches_the_features():
    features = torch.randn(1, 6, 4, 4, requires_grad=True)
    PrototypeRefinement(4)(features).sum().backward()
    assert features.grad.abs().min() > 0


@pytest.mark.parametrize(
    ('number', 'size', 'cells'),
    [
        (16, (14, 14), (4, 4)),
        (16, (8, 32), (2, 8)),
        (12, (20, 15), (4, 3)),
        (8, (14, 14), (2, 4)),
        (7, (9, 14), (1, 7)),
    ],
)
def test_prototypes_start_on_cells_that_are_nearly_square(number, size, cells):
    assert seed_grid(number, size) == cells


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match='scale must be positive, got 0.0'):
        PrototypeRefinement(scale=0.0)
    with pytest.raises(ValueError, match='seed_grid and scale must be positive'):
        ClusterGrouping(8, seed_grid=(0, 2))


@pytest.mark.parametrize('number', [0, 10**9, 2.0, True])
def test_a_clustering_has_bounds(number):
    kinds = (PrototypeRefinement, NonLearnablePrototypes, ClusterGrouping)
    for kind, first in zip(kinds, ((), (8, 8), (8,)), strict=True):
        with pytest.raises(ValueError, match='num_iters must be an integer from 1 to 1000, got'):
            kind(*first, num_iters=number)
    for sizes in ({}, {'embed_dims': 8}):
        with pytest.raises(ValueError, match='num_prototypes must be an integer from 1 to 65536'):
            (NonLearnablePrototypes if sizes else PrototypeRefinement)(number, **sizes)
    with pytest.raises(ValueError, match='product of seed_grid must be an integer from 1 to 65536'):
        ClusterGrouping(8, seed_grid=(10**5, 10**5))
