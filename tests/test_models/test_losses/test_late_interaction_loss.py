import pytest
import torch
import torch.nn.functional as F

from pgseg_mm.models.layers import micro_batches
from pgseg_mm.models.layers.regions import whole_images
from pgseg_mm.models.losses import LateInteractionLoss
from region_zoo import halves, normal

SCALE = torch.tensor(7.0)


def patches(*columns: list[float]) -> torch.Tensor:
    """Assignment (1, G, 1, 2) of a left and a right patch."""
    return torch.tensor(columns)[None, :, None]


def by_hand(groups, prompts, shares, captions) -> torch.Tensor:
    """The loss, score by score; shares are of each group in each region."""
    groups, prompts = F.normalize(groups, dim=-1), F.normalize(prompts, dim=-1)
    per_text = prompts.shape[1]
    scores = []
    for image, of_regions in zip(groups, shares, strict=True):
        for of_groups in of_regions:
            row = []
            for prompt in prompts.flatten(0, 1):
                near = image @ prompt
                weights = of_groups * (SCALE * near).exp()
                row.append(SCALE * (weights @ near) / weights.sum())
            scores.append(torch.stack(row))
    scores = torch.stack(scores)
    own = [
        scores[r].log_softmax(0)[per_text * c : per_text * (c + 1)].mean()
        for r, c in enumerate(captions)
    ]
    captions = torch.tensor(captions)
    back = [
        scores[:, n].log_softmax(0)[captions == n // per_text].mean()
        for n in range(scores.shape[1])
    ]
    return -(torch.stack(own).mean() + torch.stack(back).mean()) / 2


def test_whole_images_by_hand():
    groups, prompts = normal(3, 2, 5), normal(3, 4, 5, seed=1)
    expected = by_hand(groups, prompts, torch.ones(3, 1, 2), [0, 1, 2])
    loss, assignment = LateInteractionLoss(loss_weight=2.0), torch.rand(3, 2, 8, 8)
    assignment[0, 1] = 0  # an empty group
    for layout in (None, whole_images(torch.rand(3, 3, 8, 8))):
        found = loss(groups, prompts, SCALE, assignment, layout)
        torch.testing.assert_close(found, 2 * expected)


def test_regions_by_hand():
    groups, prompts = normal(2, 3, 5), normal(2, 2, 5, seed=1)
    one = patches([0.5, 0.5], [0.25, 0.0], [0.25, 0.5])
    assignment = torch.cat([one, patches([0.1, 0.3], [0.5, 0.5], [0.4, 0.2])])
    shares = torch.tensor(
        [
            [[0.5, 1.0, 1 / 3], [0.5, 0.0, 2 / 3]],
            [[0.25, 0.5, 2 / 3], [0.75, 0.5, 1 / 3]],
        ]
    )
    expected = by_hand(groups, prompts, shares, [0, 1, 1, 0])
    found = LateInteractionLoss()(groups, prompts, SCALE, assignment, halves([[0, 1], [1, 0]]))
    torch.testing.assert_close(found, expected)


def test_a_group_that_is_elsewhere_has_no_part_however_well_it_fits():
    """Attention may bring it in, but here the tokens are given."""
    prompts = torch.eye(4)[:2, None]
    groups = prompts[:, 0].flip(0)[None].clone().requires_grad_()  # each where the other should be
    one_each = patches([1.0, 0.0], [0.0, 1.0])
    found = LateInteractionLoss()(groups, prompts, SCALE, one_each, halves([[0, 1]]))
    torch.testing.assert_close(found, SCALE + torch.log1p(torch.exp(-SCALE)))
    (gradient,) = torch.autograd.grad(found, groups)
    expected = by_hand(groups, prompts, torch.eye(2)[None], [0, 1])
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, groups)[0])


def test_only_the_best_group_of_a_prompt_learns_from_it():
    prompts = torch.eye(6)[:2, None]
    groups = torch.stack([torch.eye(6)[0] * 0.9 + torch.eye(6)[3] * 0.1, torch.eye(6)[4]])
    groups = groups.expand(2, -1, -1).clone().requires_grad_()
    scale = torch.tensor(50.0)
    loss = LateInteractionLoss()
    loss(groups, prompts, scale, torch.ones(2, 2, 1, 1)).backward()
    to_prompt = groups.grad[0, :, 0].abs()
    assert to_prompt[0] > 1e3 * to_prompt[1]


def test_the_assignment_learns_where_the_prompts_are():
    tokens, prompts = torch.eye(2)[None] * 3, torch.eye(2)[:, None]
    logits = torch.zeros(1, 2, 2, 2, requires_grad=True)
    loss = LateInteractionLoss()
    loss(tokens, prompts, SCALE, logits.softmax(dim=1), halves([[0, 1]])).backward()
    left, right = -logits.grad[0, 0, :, 0], -logits.grad[0, 0, :, 1]
    assert left.min() > 0 > right.max()  # group 0 is to grow on the left and to shrink on the right


def test_a_region_without_any_group_is_compared_with_all():
    groups, prompts = normal(1, 2, 5).requires_grad_(), normal(2, 1, 5, seed=1)
    nobody_right = patches([1.0, 0.0], [1.0, 0.0])
    found = LateInteractionLoss()(groups, prompts, SCALE, nobody_right, halves([[0, 1]]))
    expected = by_hand(groups, prompts, torch.ones(1, 2, 2), [0, 1])
    torch.testing.assert_close(found, expected)
    found.backward()
    assert groups.grad.isfinite().all()


def test_half_precision_is_left_alone():
    groups, prompts = normal(3, 2, 5), normal(3, 4, 5, seed=1)
    groups, prompts = groups.bfloat16(), prompts.bfloat16()
    loss, assignment = LateInteractionLoss(), torch.rand(3, 2, 2, 2)
    for layout in (None, halves([[0, 1], [1, 2], [2, 0]])):
        whole = loss(groups.float(), prompts.float(), SCALE, assignment, layout)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            found = loss(groups, prompts, SCALE, assignment, layout)
        torch.testing.assert_close(found, whole)


def test_micro_batches_have_the_loss_and_the_gradients_of_the_whole(monkeypatch):
    pieces = []
    kept = micro_batches.checkpoint
    monkeypatch.setattr(
        micro_batches,
        'checkpoint',
        lambda function, *args, **kw: pieces.append(len(args[0])) or kept(function, *args, **kw),
    )
    assignment, layout = (
        normal(5, 4, 2, 2, seed=2).softmax(dim=1),
        halves([[0, 1]] * 3 + [[2, 3]] * 2),
    )
    found = []
    for size in (None, 2):
        groups, prompts = normal(5, 4, 6).requires_grad_(), normal(4, 3, 6, seed=1).requires_grad_()
        scale = SCALE.clone().requires_grad_()
        loss = LateInteractionLoss(micro_batch_size=size)
        loss = loss(groups, prompts, scale, assignment, layout)
        found.append([loss, *torch.autograd.grad(loss, [groups, prompts, scale])])
    torch.testing.assert_close(*found)
    assert pieces == [2, 2, 1]
    with pytest.raises(ValueError, match='micro_batch_size must be None or at least 1, got 0'):
        LateInteractionLoss(micro_batch_size=0)


@pytest.mark.parametrize(
    ('groups', 'prompts'),
    [((3, 2, 5), (4, 2, 5)), ((3, 2, 5), (3, 2, 6)), ((3, 2, 5), (3, 0, 5)), ((3, 5), (3, 2, 5))],
)
def test_refuses_shapes_that_do_not_fit(groups, prompts):
    with pytest.raises(ValueError, match=r'expected group embeddings \(\d, G, D\) and prompt'):
        LateInteractionLoss()(normal(*groups), normal(*prompts), SCALE, torch.ones(3, 2, 1, 1))


def test_refuses_the_layout_of_other_images():
    with pytest.raises(ValueError, match=r'\(1, G, D\)'):
        LateInteractionLoss()(
            normal(3, 2, 5), normal(2, 2, 5), SCALE, torch.ones(3, 2, 1, 1), halves([[0, 1]])
        )


@pytest.mark.parametrize('shape', [(3, 3, 1, 1), (1, 2, 1, 1), (3, 2, 1)])
def test_refuses_the_assignment_of_other_groups(shape):
    with pytest.raises(ValueError, match=r'assignment \(M, G, h, w\) of groups \(3, 2\), got'):
        LateInteractionLoss()(normal(3, 2, 5), normal(3, 2, 5), SCALE, torch.ones(shape))


def test_groups_and_assignment_may_differ_in_precision():
    groups, prompts, assignment = normal(1, 2, 5), normal(2, 2, 5), torch.rand(1, 2, 2, 2)
    found = LateInteractionLoss()(groups, prompts, SCALE, assignment.double(), halves([[0, 1]]))
    expected = LateInteractionLoss()(groups, prompts, SCALE, assignment, halves([[0, 1]]))
    torch.testing.assert_close(found, expected)
