"""Batch norm by the moments of the input: the same as batch norm of the hidden activations."""

import pytest
import torch
from mmengine.model import convert_sync_batchnorm
from torch.utils.checkpoint import checkpoint

from distributed import WORLD_SIZE, on_two_ranks
from pgseg_mm.models.layers import Moments, ProjectionMLP, ReconstructionMLP


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    """Rows with a mean far from zero, which is hard on variances."""
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()
    return 5 + noise * torch.linspace(0.1, 2, shape[-1]).double()


def pair() -> tuple[ProjectionMLP, ReconstructionMLP]:
    torch.manual_seed(0)
    plain, ours = ProjectionMLP(6, 5, 16).double(), ReconstructionMLP(6, 5, 16).double()
    torch.nn.init.normal_(plain.norm.weight, 1, 0.3)
    torch.nn.init.normal_(plain.norm.bias)
    ours.load_state_dict(plain.state_dict())
    return plain, ours


@pytest.mark.parametrize('training', [True, False])
def test_equals_batch_norm_with_gradients_and_statistics(training):
    x, direction = rows(3, 7, 6), rows(3, 7, 5, seed=1)
    modules = [module.train(training) for module in pair()]
    out = [module(x) for module in modules]
    torch.testing.assert_close(out[1], out[0], atol=1e-10, rtol=1e-10)
    for value in out:
        (value * direction).sum().backward()
    for (name, p), q in zip(modules[0].named_parameters(), modules[1].parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, atol=1e-9, rtol=1e-9, msg=name)
    for name, value in modules[0].state_dict().items():
        torch.testing.assert_close(modules[1].state_dict()[name], value, msg=name)


def test_moments_of_parts_add_up():
    x = rows(9, 6)
    moments = Moments.of(x[:4]) + Moments.of(x[4:])
    assert moments.number == 9
    torch.testing.assert_close(moments.mean, x.mean(0))
    torch.testing.assert_close(moments.scatter / 8, x.T.cov())


def test_a_forward_pass_that_is_made_again_moves_no_statistics():
    x = rows(8, 6).requires_grad_()
    _, plain = pair()
    _, checkpointed = pair()
    plain.train()(x).sum().backward()
    checkpoint(checkpointed.train(), x, use_reentrant=False).sum().backward()
    for name, value in plain.state_dict().items():
        assert torch.equal(checkpointed.state_dict()[name], value), name


def test_a_batch_in_pieces_is_normalised_as_one():
    x = rows(8, 6)
    _, whole = pair()
    _, pieces = pair()
    expected = whole.train()(x)
    pieces.train().expect(Moments.of(x))
    torch.testing.assert_close(torch.cat([pieces(part) for part in x.split(3)]), expected)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(pieces.state_dict()[name], value, msg=name)
    pieces.expect(None)
    torch.testing.assert_close(pieces(x[:4]), pair()[1].train()(x[:4]))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_changes_nothing_of_the_statistics(dtype):
    x = rows(8, 6).float()
    (_, plain), (_, mixed) = pair(), pair()
    plain.float().train().expect(Moments.of(x))
    with torch.autocast('cpu', dtype=dtype):
        mixed.float().train().expect(Moments.of(x))
    for name, value in plain.state_dict().items():
        assert torch.equal(mixed.state_dict()[name], value), name


def test_where_rows_do_not_vary_the_variance_is_not_negative():
    torch.manual_seed(0)
    module = ReconstructionMLP(64, 5, 512).train()
    direction = torch.randn(64)
    with torch.no_grad():  # no hidden channel sees what varies
        weight = module.fc1.weight
        weight -= torch.outer(weight @ direction, direction) / direction.square().sum()
    module.norm.momentum = 1.0
    module(torch.randn(300, 1) * direction)
    assert module.norm.running_var.min() >= 0


def test_a_model_that_a_framework_has_converted_goes_on():
    x = rows(8, 6)
    _, ours = pair()
    expected = ours.train()(x)
    _, converted = pair()
    converted = convert_sync_batchnorm(converted).train()
    assert type(converted.norm) is torch.nn.SyncBatchNorm
    torch.testing.assert_close(converted(x), expected)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(converted.state_dict()[name], value, msg=name)


def run(rank: int, x: torch.Tensor, sizes: list[int]) -> dict[str, torch.Tensor]:
    module = pair()[1].train()
    out = module(x.split(sizes)[rank])
    out.square().sum().backward()
    grads = {f'grad {name}': p.grad for name, p in module.named_parameters()}
    return {'out': out.detach(), **grads, **module.state_dict()}


def test_ranks_share_their_statistics(tmp_path):
    x, sizes = rows(11, 6), [7, 4]
    ranks = on_two_ranks(run, x, sizes, folder=tmp_path)
    module = pair()[1].train()
    out = module(x)
    out.square().sum().backward()
    torch.testing.assert_close(torch.cat([r['out'] for r in ranks]), out.detach())
    for name, p in module.named_parameters():  # DDP averages what are sums here
        total = sum(r[f'grad {name}'] for r in ranks)
        torch.testing.assert_close(total, p.grad, atol=1e-8, rtol=1e-8, msg=name)
    for r in ranks:
        torch.testing.assert_close(r['norm.running_mean'], module.norm.running_mean)
        torch.testing.assert_close(r['norm.running_var'], module.norm.running_var)
    assert len(ranks) == WORLD_SIZE
