import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from pgseg_mm.models.layers import NonLearnablePrototypes


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_prototypes_are_unit_rows_and_reconstruct_the_tokens():
    module = NonLearnablePrototypes(5, 16).eval()
    out = module(tokens(3, 40, 16))
    assert out.prototypes.shape == (3, 5, 16)
    assert out.reconstruction.shape == (3, 40, 16)
    torch.testing.assert_close(out.prototypes.norm(dim=-1), torch.ones(3, 5))


def test_one_round_by_hand():
    module = NonLearnablePrototypes(2, 2, num_iters=1, momentum=None)
    module.mu.copy_(torch.eye(2)[None])
    x = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
    z = x.softmax(dim=-1)  # mu is the identity
    z = z / z.sum(dim=1, keepdim=True)
    mu = z.transpose(1, 2) @ x
    mu = mu / mu.norm(dim=-1, keepdim=True)
    out = module(x)
    torch.testing.assert_close(out.prototypes, mu, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.reconstruction, z @ mu, atol=1e-5, rtol=0)


def test_momentum_moves_mu_in_training_only():
    module = NonLearnablePrototypes(4, 8, momentum=0.9)
    start = module.mu.clone()
    module.eval()(tokens(2, 20, 8))
    assert torch.equal(module.mu, start)
    prototypes = module.train()(tokens(2, 20, 8)).prototypes
    torch.testing.assert_close(module.mu, 0.9 * start + 0.1 * prototypes.mean(0, keepdim=True))


def test_frozen_mu_never_moves():
    module = NonLearnablePrototypes(4, 8, momentum=None).train()
    start = module.mu.clone()
    module(tokens(2, 20, 8))
    assert torch.equal(module.mu, start)


def test_mu_is_saved_with_the_model():
    assert list(NonLearnablePrototypes(4, 8).state_dict()) == ['mu']


def test_no_gradient_reaches_the_tokens():
    x = tokens(2, 20, 8).requires_grad_()
    out = NonLearnablePrototypes(4, 8)(x)
    assert not out.prototypes.requires_grad and not out.reconstruction.requires_grad


@pytest.mark.parametrize('use_reentrant', [False, True])
def test_checkpointing_updates_once_and_recomputes_the_same(use_reentrant):
    once = NonLearnablePrototypes(4, 8)
    twice = copy.deepcopy(once)
    seen = []

    def forward(module: NonLearnablePrototypes, x: torch.Tensor) -> torch.Tensor:
        out = module(x)
        seen.append(out.prototypes)
        return (x * out.reconstruction).sum()

    x = tokens(2, 20, 8).requires_grad_()
    forward(once, x).backward()
    checkpoint(forward, twice, x, use_reentrant=use_reentrant).backward()
    assert len(seen) == 3  # plain, checkpointed, recomputed
    torch.testing.assert_close(twice.mu, once.mu)
    torch.testing.assert_close(seen[2], seen[1])


def test_clusters_in_float32_under_autocast():
    module = NonLearnablePrototypes(4, 8).eval()
    x = tokens(2, 20, 8)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = module(x)
        half = module(x.bfloat16())
    assert out.prototypes.dtype == half.prototypes.dtype == torch.float32
    torch.testing.assert_close(out.prototypes, module(x).prototypes)


def test_an_overflowed_batch_leaves_mu_alone():
    module = NonLearnablePrototypes(4, 8).train()
    start = module.mu.clone()
    module(torch.full((2, 20, 8), float('inf')))
    assert torch.equal(module.mu, start)


@pytest.mark.parametrize(
    'kwargs', [dict(num_prototypes=0), dict(num_iters=0), dict(momentum=1.5), dict(momentum=-0.1)]
)
def test_refuses_impossible_settings(kwargs):
    with pytest.raises(ValueError, match='must be'):
        NonLearnablePrototypes(**{'num_prototypes': 4, 'embed_dims': 8, **kwargs})
