import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub

from pgseg_mm.models.losses import NPRLoss, match_prototypes, start_matching

PARITY = Path(__file__).parents[2] / 'data' / 'parity' / 'npr_release.npz'


def npr(**kwargs) -> NPRLoss:
    return NPRLoss(**{'loss_weight': 1.0, 'temperature': 1.0, **kwargs})


def test_matching_confirms_the_paper():
    stored = np.load(PARITY)
    groups, prototypes = (torch.from_numpy(stored[k]) for k in ('groups', 'prototypes'))
    similarity = F.normalize(groups, dim=-1) @ F.normalize(prototypes, dim=-1).transpose(1, 2)
    assert np.array_equal(match_prototypes(similarity).numpy(), stored['paper_match'])


def test_matching_maximises_the_total_not_each_row():
    # the first group prefers prototype 0, too, but the total is larger if it yields
    similarity = torch.tensor([[[0.9, 0.8], [0.85, 0.1]]])
    assert match_prototypes(similarity).tolist() == [[1, 0]]


def test_release_matches_what_is_least_alike():
    stored = np.load(PARITY)
    groups, prototypes = (torch.from_numpy(stored[k]) for k in ('groups', 'prototypes'))
    similarity = F.normalize(groups, dim=-1) @ F.normalize(prototypes, dim=-1).transpose(1, 2)
    match = match_prototypes(similarity, maximize=False)
    assert np.array_equal(match.numpy(), stored['release_match'])


def test_release_rejects_and_learns_as_stored():
    """Masks, loss and both gradients of the authors' release."""
    stored = np.load(PARITY)
    loss = npr(
        temperature=float(stored['temperature']),
        threshold=float(stored['threshold']),
        maximize=False,
        rejection='release',
    ).double()
    groups = torch.from_numpy(stored['groups']).double().requires_grad_()
    prototypes = torch.from_numpy(stored['prototypes']).double()
    pairs = loss.start(groups, prototypes)
    match = pairs.match.result()
    matched = pairs.similarity.detach().gather(2, match[:, None].expand_as(pairs.similarity))
    to_prototypes, to_groups = loss._kept(matched)
    assert np.array_equal(to_prototypes, stored['release_kept_prototype'])
    assert np.array_equal(to_groups, stored['release_kept_group'])
    value = loss(None, groups, prototypes)
    value.backward()
    assert value.item() == pytest.approx(float(stored['release_loss']), rel=1e-7)
    np.testing.assert_allclose(groups.grad, stored['release_grad_groups'], atol=1e-7)
    assert loss.logit_scale.grad.item() == pytest.approx(
        float(stored['release_grad_logit_scale']), rel=1e-6
    )


@pytest.mark.parametrize('other', [dict(maximize=True), dict(rejection='own')])
def test_each_deviation_alone_differs_from_the_release(other):
    stored = np.load(PARITY)
    kwargs = {'temperature': 0.1, 'maximize': False, 'rejection': 'release', **other}
    groups, prototypes = (torch.from_numpy(stored[k]) for k in ('groups', 'prototypes'))
    value = npr(**kwargs)(None, groups, prototypes)
    assert abs(value.item() - float(stored['release_loss'])) > 0.1


def test_many_matches_at_once_in_other_threads():
    one, other = torch.rand(40, 6, 6), torch.rand(3, 2, 2)
    pending = [start_matching(one), start_matching(other)]
    total = one.gather(2, pending[0].result()[..., None]).sum((1, 2))
    assert torch.equal(pending[0].result().sort(dim=1).values, torch.arange(6).expand(40, 6))
    for _ in range(50):  # no other permutation is better
        permutation = torch.rand(40, 6).argsort(1)
        assert (one.gather(2, permutation[..., None]).sum((1, 2)) <= total + 1e-5).all()
    best = other.diagonal(dim1=1, dim2=2).sum(1) >= other.flip(2).diagonal(dim1=1, dim2=2).sum(1)
    assert torch.equal(pending[1].result()[:, 0] == 0, best)


def test_perfect_pairs_by_hand():
    """Cosine 1 with the own and 0 with the other prototype, stored in another order."""
    groups = torch.eye(2)[None] * 5
    prototypes = torch.eye(2)[None].flip(1)
    expected = 2 * math.log(1 + math.exp(-1))  # both directions
    assert npr()(None, groups, prototypes).item() == pytest.approx(expected, rel=1e-5)


def test_rejection_by_hand():
    """One group in between: its matched similarity is its row's smallest, so it is rejected."""
    angles = torch.tensor([0.0, 1.4])
    groups = torch.stack([torch.tensor([0.0, 0.6]).cos(), torch.tensor([0.0, 0.6]).sin()], 1)[None]
    prototypes = torch.stack([angles.cos(), angles.sin()], 1)[None]
    similarity = (groups @ prototypes.transpose(1, 2))[0]
    assert similarity[1, 0] > similarity[1, 1]  # group 1 prefers prototype 0 but is matched to 1
    group_terms = -similarity.log_softmax(1).diagonal()
    prototype_terms = -similarity.log_softmax(0).diagonal()
    expected = group_terms[0] + prototype_terms.mean()  # group 1 is dropped in its direction only
    torch.testing.assert_close(npr()(None, groups, prototypes).detach(), expected)


def test_nothing_kept_is_zero_and_never_nan():
    same = torch.ones(2, 3, 4, requires_grad=True)  # all similarities equal: all normalise to 0
    loss = npr()(None, same, torch.ones(2, 3, 4))
    loss.backward()
    assert loss.item() == 0
    assert same.grad.isfinite().all()


def test_release_logs_nan_where_nothing_is_kept_but_learns_nothing():
    same = torch.ones(2, 3, 4, requires_grad=True)
    loss = npr(nan_if_empty=True)
    value = loss(None, same, torch.ones(2, 3, 4))
    value.backward()
    assert value.isnan()
    assert not same.grad.any() and not loss.logit_scale.grad.any()


def test_nan_is_not_rejected_but_seen():
    groups = torch.randn(2, 3, 4)
    groups[1, 2] = float('nan')
    assert npr()(None, groups, torch.randn(2, 3, 4)).isnan()


def test_gradient_reaches_groups_and_temperature_only():
    groups = torch.randn(2, 4, 8, requires_grad=True)
    prototypes = torch.randn(2, 4, 8, requires_grad=True)
    loss = npr()
    loss(None, groups, prototypes).backward()
    assert groups.grad.abs().sum() > 0 and loss.logit_scale.grad.abs() > 0
    assert prototypes.grad is None


def test_prototypes_can_be_estimated_from_features():
    loss = npr(prototypes=dict(type='NonLearnablePrototypes', num_prototypes=4, embed_dims=8))
    features, groups = torch.randn(2, 30, 8), torch.randn(2, 4, 8)
    prototypes = loss.prototypes.eval()(features).prototypes
    torch.testing.assert_close(loss(features, groups), loss(None, groups, prototypes))


@pytest.mark.parametrize(
    ('step', 'weight'), [(0, 0.0), (9, 0.0), (10, 0.05), (13, 0.2), (500, 0.2)]
)
def test_schedule_follows_the_runner(step, weight):
    hub = MessageHub.get_instance(f'npr-schedule-{step}')
    hub.update_info('iter', step)
    loss = npr(loss_weight=0.2, begin=10, ramp=3)
    assert loss.current_weight() == pytest.approx(weight)
    groups, prototypes = torch.randn(2, 4, 8, requires_grad=True), torch.randn(2, 4, 8)
    value = loss(None, groups, prototypes)
    assert (value.item() > 0) == (weight > 0)
    value.backward()  # the temperature stays in the graph, as DDP wants it
    assert loss.logit_scale.grad is not None


def test_full_weight_without_a_runner():
    MessageHub.get_instance('npr-no-runner')
    assert npr(loss_weight=0.2, begin=10).current_weight() == 0.2


def test_refuses_shapes_that_cannot_be_matched():
    with pytest.raises(ValueError, match='one shape'):
        npr()(None, torch.randn(2, 4, 8), torch.randn(2, 5, 8))


def test_refuses_to_guess_prototypes():
    with pytest.raises(ValueError, match='needs prototypes'):
        npr()(torch.randn(2, 30, 8), torch.randn(2, 4, 8))


def test_refuses_an_unknown_rejection():
    with pytest.raises(ValueError, match='rejection'):
        npr(rejection='none')


def test_refuses_a_negative_first_step():
    with pytest.raises(ValueError, match='begin'):
        npr(begin=-1)


def test_schedule_can_follow_the_epochs():
    hub = MessageHub.get_instance('npr-epochs')
    hub.update_info('iter', 500)
    loss = npr(loss_weight=0.2, begin=2, by_epoch=True)
    for epoch, weight in ((1, 0.0), (2, 0.2)):
        hub.update_info('epoch', epoch)
        assert loss.current_weight() == pytest.approx(weight)


def test_a_pair_at_the_threshold_is_rejected():
    """The smallest similarity of a row is 0 on the scale of the threshold."""
    angles = torch.tensor([[0.0, 0.6], [0.0, 1.4]])
    groups, prototypes = torch.stack([angles.cos(), angles.sin()], dim=-1)[:, None]
    similarity = groups @ prototypes.transpose(1, 2)
    assert match_prototypes(similarity).tolist() == [[0, 1]]
    assert similarity[0, 1, 1] == similarity[0, 1].min()
    found = npr(threshold=0.0)(None, groups, prototypes)
    torch.testing.assert_close(found, npr(threshold=0.01)(None, groups, prototypes))
    assert found < npr(threshold=-1.0)(None, groups, prototypes)


def test_the_threshold_of_the_release_is_the_default():
    assert NPRLoss().threshold == 0.1
