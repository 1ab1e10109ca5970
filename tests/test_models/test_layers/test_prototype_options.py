"""Options of the clustering, each against a plain computation."""

import copy

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub

from pgseg_mm.models.layers import (
    NonLearnablePrototypes,
    TextPrototypes,
    balanced_logits,
    farthest_tokens,
    kmeans_plus_plus,
    soft_clusters,
)
from pgseg_mm.models.layers.dist import STEP_SEED

OPTIONS = [
    dict(temperature=0.1),
    dict(start='farthest'),
    dict(start='kmeans++', temperature=0.2),
    dict(balance='sinkhorn'),
    dict(temperature=0.1, start='farthest', balance='sinkhorn'),
    dict(shared=True, temperature=0.1),
]


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def step_seed():
    """Sets the seed of a training step."""
    hub = MessageHub.get_current_instance()

    def set_seed(seed: int) -> None:
        hub.update_info(STEP_SEED, seed, resumed=False)

    yield set_seed
    hub.runtime_info.pop(STEP_SEED, None)


def test_a_temperature_makes_it_spherical_soft_k_means():
    x, mu = 5 * tokens(1, 12, 6), tokens(1, 3, 6, seed=1)
    found = soft_clusters(x, mu, num_iters=4, temperature=0.2).prototypes[0]
    points, centres = unit(x[0].numpy()), unit(mu[0].numpy())
    for _ in range(4):
        weights = np.exp([[point @ centre / 0.2 for centre in centres] for point in points])
        weights /= weights.sum(axis=1, keepdims=True)
        centres = unit(np.array([(weights[:, g, None] * points).sum(0) for g in range(3)]))
    torch.testing.assert_close(found, torch.from_numpy(centres), atol=1e-5, rtol=0)


def test_lengths_of_tokens_play_no_part_with_a_temperature_only():
    x, mu = tokens(2, 12, 6), tokens(1, 3, 6, seed=1)
    for temperature, same in ((0.1, True), (None, False)):
        once, longer = (soft_clusters(f * x, mu, temperature=temperature) for f in (1, 7))
        assert torch.allclose(once.prototypes, longer.prototypes) == same


def test_a_low_temperature_finds_directions_that_the_dot_product_blurs():
    directions = torch.eye(4, 8, dtype=torch.double)
    x = (directions.repeat_interleave(10, 0) + 0.05 * tokens(40, 8))[None]
    sharp, blurred = (
        soft_clusters(x, farthest_tokens(x, 4), temperature=t).prototypes[0] for t in (0.1, None)
    )
    assert (sharp @ directions.T).amax(0).min() > 0.99
    assert (blurred @ blurred.T).mean() > 0.9


@pytest.mark.parametrize('weighted', [False, True])
def test_farthest_tokens_one_by_one(weighted):
    x = tokens(3, 9, 5)
    weights = torch.ones(3, 9, dtype=torch.double)
    if weighted:
        weights = torch.rand(3, 9, generator=torch.Generator().manual_seed(2)).double()
        weights[:, ::4] = 0
    found = farthest_tokens(x, 4, weights if weighted else None)
    for image, weight, chosen in zip(x.numpy(), weights.numpy(), found.numpy(), strict=True):
        points = unit(image)
        mean = unit((points * weight[:, None]).sum(0))
        expected: list[int] = []
        for _ in range(4):
            before = points[expected] if expected else [mean]
            away = [min(1 - p @ other for other in before) for p in points]
            allowed = np.where(weight > 0, np.array(away) * weight, -1)
            expected.append(int(allowed.argmax()))
        np.testing.assert_allclose(chosen, points[expected], atol=1e-12)
        assert (weight[expected] > 0).all() and len(set(expected)) == 4


def test_farthest_tokens_of_fewer_tokens_are_there_twice():
    x = tokens(1, 3, 5)
    found = farthest_tokens(x, 5, torch.tensor([[True, False, True]]))
    points = x[0] / x[0].norm(dim=-1, keepdim=True)
    assert {int((points @ f).argmax()) for f in found[0]} == {0, 2}


def test_kmeans_plus_plus_draws_by_the_squared_distance():
    x, numbers = tokens(2, 7, 5), torch.tensor([0.3, 0.9, 0.05], dtype=torch.double)
    weights = torch.rand(2, 7, generator=torch.Generator().manual_seed(3)).double()
    found = kmeans_plus_plus(x, 3, numbers, weights)
    for image, weight, chosen in zip(x.numpy(), weights.numpy(), found.numpy(), strict=True):
        points, drawn = unit(image), []
        for number in numbers.numpy():
            mass = weight.copy()
            for n, point in enumerate(points):
                mass[n] *= min([((point - points[i]) ** 2).sum() for i in drawn], default=1)
            drawn.append(int(np.searchsorted(mass.cumsum() / mass.sum(), number)))
        np.testing.assert_allclose(chosen, points[drawn], atol=1e-12)


def test_kmeans_plus_plus_of_tokens_that_are_alike_draws_any_that_may_be_drawn():
    mask = torch.tensor([[False, True, True, False]])
    numbers = torch.tensor([0.1, 0.6, 0.99])
    x = torch.ones(1, 4, 3)
    assert torch.allclose(kmeans_plus_plus(x, 3, numbers, mask), torch.tensor(3**-0.5))


def test_every_step_draws_its_own_tokens_and_evaluation_the_same(step_seed):
    module, x = NonLearnablePrototypes(3, 6, start='kmeans++', num_iters=1), tokens(2, 40, 6)
    found = []
    for seed in (1, 2, 1):
        step_seed(seed)
        torch.rand(seed)  # whatever else was drawn
        found.append(module.train()(x).prototypes)
    assert torch.equal(found[0], found[2]) and not torch.allclose(found[0], found[1])
    evaluated = [module.eval()(x).prototypes]
    step_seed(7)
    evaluated.append(module(x).prototypes)
    assert torch.equal(*evaluated)


def test_balanced_logits_give_all_prototypes_an_equal_share():
    logits = 3 * tokens(2, 30, 4)
    logits[..., 0] += 4
    mask = torch.arange(30) < 20
    z = balanced_logits(logits, mask.expand(2, -1), rounds=200).softmax(dim=-1)
    torch.testing.assert_close(z[:, mask].sum(1), torch.full((2, 4), 5.0).double())
    assert logits.softmax(dim=-1)[:, mask].sum(1)[:, 0].min() > 9


def test_balanced_logits_are_sinkhorn_s():
    logits = tokens(1, 6, 3)
    plan = np.exp(logits[0].numpy())
    for _ in range(3):
        plan /= plan.sum(axis=1, keepdims=True)
        plan /= plan.sum(axis=0, keepdims=True)
    plan /= plan.sum(axis=1, keepdims=True)
    z = balanced_logits(logits, rounds=3).softmax(dim=-1)[0]
    torch.testing.assert_close(z, torch.from_numpy(plan))


def test_balance_keeps_prototypes_from_sharing_a_place():
    x = torch.cat([tokens(1, 36, 8) * 0.3 + 1, tokens(1, 4, 8) * 0.3 - 1], dim=1)
    mu = torch.ones(1, 2, 8).double() + 0.01 * tokens(1, 2, 8, seed=1)
    plain, balanced = (
        soft_clusters(x, mu, temperature=0.2, balance=b).prototypes[0] for b in (None, 'sinkhorn')
    )
    assert balanced[0] @ balanced[1] < plain[0] @ plain[1]


def test_shared_prototypes_are_clusters_of_all_tokens():
    module, x = NonLearnablePrototypes(3, 6, shared=True, num_iters=4).double(), tokens(5, 10, 6)
    expected = soft_clusters(x.flatten(0, 1)[None], module.mu.clone(), num_iters=4).prototypes
    start = module.mu.clone()
    out = module.train()(x)
    torch.testing.assert_close(out.prototypes, expected.expand(5, -1, -1))
    torch.testing.assert_close(module.mu, 0.9 * start + 0.1 * expected)
    assert out.reconstruction.shape == x.shape
    torch.testing.assert_close(
        module.eval()(x[:1]).prototypes, module.mu / module.mu.norm(dim=-1, keepdim=True)
    )


def test_shared_prototypes_leave_out_what_is_masked():
    module, x = NonLearnablePrototypes(3, 6, shared=True).double().train(), tokens(2, 10, 6)
    mask = torch.arange(10) < torch.tensor([[4], [7]])
    alone = soft_clusters(x[mask][None], module.mu.clone()).prototypes
    torch.testing.assert_close(module(x, mask).prototypes[0], alone[0])


@pytest.mark.parametrize('options', [dict(), dict(start='farthest'), dict(balance='sinkhorn')])
def test_prototypes_of_a_region_are_clusters_of_its_tokens_alone(options):
    module = NonLearnablePrototypes(4, 6, temperature=0.2, **options).double().eval()
    x, inside = tokens(3, 20, 6), torch.arange(20) % 3 == 0
    shares = torch.stack([~inside, inside]).double().expand(3, -1, -1)
    out = module(x, shares=shares)
    for region, where in enumerate((~inside, inside)):
        part = slice(2 * region, 2 * region + 2)
        alone = NonLearnablePrototypes(2, 6, temperature=0.2, **options).double().eval()
        alone.mu.copy_(module.mu[:, part])
        expected = alone(x[:, where])
        torch.testing.assert_close(out.prototypes[:, part], expected.prototypes)
        torch.testing.assert_close(out.reconstruction[:, where], expected.reconstruction)


def test_a_token_that_straddles_a_border_counts_in_both_regions_by_its_share():
    module, x = NonLearnablePrototypes(2, 6, num_iters=1).double().eval(), tokens(1, 5, 6)
    shares = torch.tensor([[[1, 0.25, 0, 1, 0], [0, 0.75, 1, 0, 1]]]).double()
    out = module(x, shares=shares).prototypes[0]
    expected = shares[0] @ x[0]  # one prototype of a region: the mean
    torch.testing.assert_close(
        out, expected / expected.norm(dim=-1, keepdim=True), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_options_work_in_half_precision_and_move_mu_once(options):
    module, x = NonLearnablePrototypes(4, 8, **options).train(), tokens(3, 20, 8).float()
    start = module.mu.clone()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = module(x.bfloat16().requires_grad_())
    assert out.prototypes.dtype == torch.float32 and not out.prototypes.requires_grad
    torch.testing.assert_close(out.prototypes.norm(dim=-1), torch.ones(3, 4))
    assert torch.equal(module.mu, start) == (options.get('start', 'mu') != 'mu')
    assert module.assign(x, out.prototypes).shape == (3, 4, 20)


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_a_recomputation_finds_the_same_prototypes(options):
    module, seen = NonLearnablePrototypes(4, 8, **options).train(), []

    def forward(x: torch.Tensor) -> torch.Tensor:
        out = module(x)
        seen.append(copy.copy(out))
        return (x * out.reconstruction).sum()

    x = tokens(2, 20, 8).float().requires_grad_()
    torch.utils.checkpoint.checkpoint(forward, x, use_reentrant=False).backward()
    assert len(seen) == 2
    for once, again in zip(*seen, strict=True):
        torch.testing.assert_close(again, once, atol=0, rtol=0)


def test_words_can_be_clustered_with_the_same_options():
    options = dict(temperature=0.1, start='farthest', balance='sinkhorn')
    module = TextPrototypes(8, 6, num_prototypes=3, hidden_channels=4, **options)
    x, mask = tokens(2, 9, 6).float(), torch.arange(9) < torch.tensor([[9], [5]])
    found = module(torch.randn(2, 3, 8), x[:, 0], x, mask).prototypes
    alone = soft_clusters(x, farthest_tokens(x, 3, mask), 10, 1e-6, mask, -1, 0.1, 'sinkhorn')
    torch.testing.assert_close(found, alone.prototypes)


def test_words_of_each_caption_can_have_prototypes_of_their_own():
    module = TextPrototypes(8, 6, num_prototypes=4, hidden_channels=4, regions=True)
    x, mask = tokens(2, 2 * 9, 6).float(), torch.arange(9) < torch.tensor([[9], [5]])
    start = module.prototypes.mu.clone()
    found = module(torch.randn(2, 4, 8), x[:, 0], x, mask.repeat(1, 2), 2).prototypes
    for caption in range(2):
        words = x[:, 9 * caption : 9 * caption + 9]
        alone = soft_clusters(words, start[:, 2 * caption : 2 * caption + 2], mask=mask)
        torch.testing.assert_close(found[:, 2 * caption : 2 * caption + 2], alone.prototypes)


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(temperature=0.0), 'temperature must be None or positive'),
        (dict(start='middle'), "start must be one of .*, got 'middle'"),
        (dict(balance='even'), "balance must be None or one of .*, got 'even'"),
        (dict(shared=True, start='farthest'), "shared prototypes need start='mu'"),
        (dict(shared=True, momentum=None), 'shared prototypes need .* a momentum'),
    ],
)
def test_refuses_options_that_are_none(kwargs, words):
    with pytest.raises(ValueError, match=words):
        NonLearnablePrototypes(4, 8, **kwargs)


def test_refuses_regions_that_prototypes_do_not_divide_among():
    shares = torch.full((2, 3, 20), 1 / 3)
    with pytest.raises(ValueError, match='4 prototypes cannot be those of 3 regions in equal'):
        NonLearnablePrototypes(4, 8)(tokens(2, 20, 8), shares=shares)
    with pytest.raises(ValueError, match='for all images share them'):
        NonLearnablePrototypes(3, 8, shared=True)(tokens(2, 20, 8), shares=shares)


def test_masked_tokens_are_no_mixture_of_shared_prototypes():
    module, x = NonLearnablePrototypes(3, 6, shared=True).double().train(), tokens(2, 10, 6)
    mask = torch.arange(10) < torch.tensor([[4], [7]])
    reconstruction = module(x, mask).reconstruction
    assert not reconstruction[~mask].any() and reconstruction[mask].any(dim=1).all()


def test_clustering_does_not_draw_what_the_batch_augments_of_the_step_draw(step_seed):
    step_seed(3)
    module = NonLearnablePrototypes(3, 6, start='kmeans++').train()
    augments = torch.rand(5, generator=torch.Generator().manual_seed(3))
    assert not torch.equal(module._random_numbers(5, torch.ones(1)), augments)
