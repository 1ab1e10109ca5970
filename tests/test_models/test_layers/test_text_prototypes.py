"""T-NPR: the paper's, and what the authors' release computes in its place."""

import numpy as np
import pytest
import torch

from pgseg_mm.models.layers import (
    NonLearnablePrototypes,
    ReleaseTextPrototypes,
    TextPrototypes,
)
from pgseg_mm.models.losses import NPRLoss

LENGTHS = (12, 3, 5)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def captions() -> dict[str, torch.Tensor]:
    tokens = rand(3, 16, 10)
    return {
        'eot': tokens[range(3), [n - 1 for n in LENGTHS]],
        'tokens': tokens,
        'mask': torch.arange(16) < torch.tensor(LENGTHS)[:, None],
    }


@pytest.fixture
def centres() -> torch.Tensor:
    return rand(3, 8, 6, seed=1).requires_grad_()


def test_padding_takes_no_part():
    module = NonLearnablePrototypes(8, 10).eval()
    x, mask = rand(3, 16, 10), torch.arange(16) < torch.tensor(LENGTHS)[:, None]
    out = module(x, mask)
    for i, length in enumerate(LENGTHS):
        alone = module(x[i : i + 1, :length])
        torch.testing.assert_close(out.prototypes[i], alone.prototypes[0])
        torch.testing.assert_close(out.reconstruction[i, :length], alone.reconstruction[0])
        assert not out.reconstruction[i, length:].any()


def test_words_are_clustered_and_centres_mapped_to_their_width(captions, centres):
    module = TextPrototypes(6, 10, hidden_channels=7).eval()
    pairs = module(centres, **captions)
    torch.testing.assert_close(pairs.groups, module.projection(centres))
    words = NonLearnablePrototypes(8, 10).eval()
    words.mu.copy_(module.prototypes.mu)
    torch.testing.assert_close(
        pairs.prototypes, words(captions['tokens'], captions['mask']).prototypes
    )


def test_gradient_reaches_centres_and_projection_but_no_text(captions, centres):
    captions['tokens'].requires_grad_()
    module = TextPrototypes(6, 10, hidden_channels=7).train()
    NPRLoss()(None, *module(centres, **captions)).backward()
    assert centres.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in module.projection.fc2.parameters())
    assert captions['tokens'].grad is None


def test_mu_follows_the_captions_in_training_only(captions, centres):
    module = TextPrototypes(6, 10, hidden_channels=7, momentum=0.8)
    start = module.prototypes.mu.clone()
    assert start.shape == (1, 8, 10)
    module.eval()(centres, **captions)
    assert torch.equal(module.prototypes.mu, start)
    mean = module.train()(centres, **captions).prototypes.mean(0, keepdim=True)
    torch.testing.assert_close(module.prototypes.mu, 0.8 * start + 0.2 * mean)


@pytest.mark.parametrize('module', [TextPrototypes(6, 10, 5), ReleaseTextPrototypes(5)])
def test_refuses_another_number_of_groups(module, captions, centres):
    with pytest.raises(ValueError, match='num_prototypes=8'):
        module(centres, **captions)


def release_prototypes(eot: np.ndarray, mu: np.ndarray, rounds: int = 10) -> np.ndarray:
    """What the description says, for one caption: (C,) and (G,) to (G,)."""
    for _ in range(rounds):
        scores = np.exp(np.outer(eot, mu))
        z = scores / scores.sum(axis=1, keepdims=True)
        z = z / (1e-6 + z.sum(axis=0))
        mu = z.T @ eot
        mu = mu / (1e-6 + np.linalg.norm(mu))
    return mu


def test_release_clusters_the_channels_of_the_end_token(captions, centres):
    module = ReleaseTextPrototypes().double()
    mu = module.prototypes.mu.clone()
    assert mu.shape == (1, 8, 1) and mu.norm().item() == pytest.approx(1)
    captions['eot'] = captions['eot'].double()
    pairs = module(centres, **captions)
    for i in range(3):
        expected = release_prototypes(captions['eot'][i].numpy(), mu[0, :, 0].numpy())
        np.testing.assert_allclose(pairs.prototypes[i, :, 0], expected, atol=1e-9)
    torch.testing.assert_close(pairs.groups[..., 0], centres.detach().double().mean(-1))


@pytest.mark.parametrize('training', [True, False])
def test_release_moves_mu_at_every_call(captions, centres, training):
    module = ReleaseTextPrototypes().train(training)
    start = module.prototypes.mu.clone()
    mean = module(centres, **captions).prototypes.mean(0, keepdim=True)
    torch.testing.assert_close(module.prototypes.mu, 0.9 * start + 0.1 * mean)
    assert not torch.equal(module.prototypes.mu, start)


def test_release_teaches_the_groups_nothing(captions, centres):
    module, loss = ReleaseTextPrototypes(), NPRLoss(maximize=False, rejection='release')
    pairs = module(centres, **captions)
    similarity = loss.start(*pairs).similarity
    torch.testing.assert_close(similarity.abs(), torch.ones(3, 8, 8))
    loss(None, *pairs).backward()
    assert centres.grad is None and not list(module.parameters())
    assert loss.logit_scale.grad.abs() > 0


def test_centres_of_another_width_say_what_to_set(captions, centres):
    with pytest.raises(ValueError, match='have 6; set text_prototypes.embed_dims=6'):
        TextPrototypes(4, 10, hidden_channels=7)(centres, **captions)
