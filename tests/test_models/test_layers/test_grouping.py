import torch
import torch.nn.functional as F

from pgseg_mm.models.layers import (
    AssignmentOptions,
    EncoderStage,
    GroupFeatures,
    GroupingBlock,
    TokenAssignment,
)
from pgseg_mm.models.layers.grouping import hard_assignment


def assignment(**options):
    return TokenAssignment(8, AssignmentOptions(**options))


def stage(num_group_tokens, num_output_groups, depth=1, **options):
    return EncoderStage(
        16,
        16,
        num_heads=2,
        drop_path_rates=[0.0] * depth,
        assignment=AssignmentOptions(),
        num_group_tokens=num_group_tokens,
        num_output_groups=num_output_groups,
        **options,
    )


def test_hard_assignment_is_one_hot_with_the_soft_gradient():
    logits = torch.randn(2, 4, 7, requires_grad=True)
    hard = hard_assignment(logits, noise=False)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(hard.argmax(1), logits.argmax(1))
    weight = torch.randn(2, 4, 7)
    (gradient,) = torch.autograd.grad((hard * weight).sum(), logits)
    (soft_gradient,) = torch.autograd.grad((logits.softmax(1) * weight).sum(), logits)
    torch.testing.assert_close(gradient, soft_gradient)


def test_gumbel_noise_only_in_training_and_only_if_asked():
    torch.manual_seed(0)
    x, centres = torch.randn(1, 50, 8), torch.randn(1, 4, 8)
    assign = assignment()
    draws = [assign.train()(centres, x)[0] for _ in range(2)]
    assert not torch.equal(*draws)
    quiet = assignment(gumbel=False)
    quiet.load_state_dict(assign.state_dict())
    torch.testing.assert_close(quiet.train()(centres, x)[0], assign.eval()(centres, x)[0])


def test_soft_assignment_is_normalised_over_groups_without_noise():
    assign = assignment().train()
    x, centres = torch.randn(2, 9, 8), torch.randn(2, 3, 8)
    soft = assign(centres, x)[1]
    torch.testing.assert_close(soft.sum(1), torch.ones(2, 9))
    torch.testing.assert_close(soft, assign(centres, x)[1])


def test_soft_pooling_is_that_of_the_soft_assignment():
    """(W_v x) weighted by it, over one plus its sum, in training as in evaluation."""
    assign = assignment(hard=False).train()
    x, centres = torch.randn(2, 9, 8), torch.randn(2, 3, 8)
    pooled, soft, by = assign(centres, x)
    assert by is soft
    expected = assign.proj(soft @ assign.v_proj(x) / (1 + soft.sum(2, keepdim=True)))
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(assign.eval()(centres, x)[0], pooled)
    hard = assignment().eval()
    hard.load_state_dict(assign.state_dict())
    torch.testing.assert_close(hard(centres, x)[1], soft)
    assert not torch.allclose(hard(centres, x)[0], pooled)


def test_assign_scale_multiplies_the_logits():
    plain, scaled = assignment().eval(), assignment(scale=3.0).eval()
    scaled.load_state_dict(plain.state_dict())
    x, centres = torch.randn(2, 9, 8), torch.randn(2, 3, 8)
    logits = plain(centres, x)[1].log()
    torch.testing.assert_close(scaled(centres, x)[1], (3 * logits).softmax(1))


def test_pooling_by_hand():
    """One group: the mean over N tokens with a one in the denominator."""
    assign = TokenAssignment(4, AssignmentOptions()).eval()
    x, centres = torch.randn(1, 6, 4), torch.randn(1, 1, 4)
    expected = assign.proj(assign.v_proj(x).sum(1, keepdim=True) / (1 + 6))
    torch.testing.assert_close(assign(centres, x)[0], expected)


def test_grouping_block_changes_the_width_by_a_reduction():
    block = GroupingBlock(
        16,
        24,
        num_heads=2,
        num_group_tokens=5,
        num_output_groups=3,
        assignment=AssignmentOptions(),
    )
    out = block(torch.randn(2, 11, 16), torch.randn(2, 5, 16))
    assert out.tokens.shape == (2, 3, 24)
    assert out.centres.shape == (2, 3, 16)
    assert out.assignment.shape == (2, 3, 11)
    assert block.reduction[1].bias is None


def test_group_tokens_start_at_zero_where_a_projector_exists():
    first = stage(5, 3)
    second = stage(4, 2, prev_group_tokens=(5, 16))
    assert first.group_token.abs().max() > 0
    assert not second.group_token.any()


def test_checkpointed_stage_gives_the_same_gradients():
    torch.manual_seed(0)
    plain = stage(5, 3, depth=2, prototypes={'hidden_channels': 8})
    saved = stage(5, 3, depth=2, prototypes={'hidden_channels': 8}, with_cp=True)
    saved.load_state_dict(plain.state_dict())
    x = torch.randn(2, 11, 16)
    for module in (plain, saved):
        torch.manual_seed(1)  # Gumbel noise
        module(x).tokens.square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, msg=name)
    assert saved.reconstruction.norm.num_batches_tracked == 1
    torch.testing.assert_close(saved.prototypes.mu, plain.prototypes.mu)


def test_patch_assignment_is_the_product_of_the_stages():
    first = torch.rand(2, 4, 6).softmax(1)
    second = torch.rand(2, 3, 4).softmax(1)
    features = GroupFeatures(torch.rand(2, 3, 8), (first, second), (), (), (2, 3))
    torch.testing.assert_close(features.patch_assignment().flatten(2), second @ first)
    torch.testing.assert_close(features.patch_assignment(0).flatten(2), first)


def test_group_usage_counts_groups_that_win_a_patch():
    winners = torch.tensor([[0, 0, 0, 0, 0, 0], [1, 2, 1, 2, 3, 3]])
    assignment = F.one_hot(winners, 4).transpose(1, 2).float()
    features = GroupFeatures(torch.rand(2, 4, 8), (assignment,), (), (), (2, 3))
    assert features.group_usage()[0] == (1 + 3) / 2
