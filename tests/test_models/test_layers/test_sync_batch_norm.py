"""Batch norm of one process; that over several ranks is in test_distributed.py."""

import pytest
import torch
from torch import nn

from pgseg_mm.models.layers import SyncBatchNorm


@pytest.mark.parametrize('value', [float('inf'), float('nan'), 1e38])
def test_an_overflowed_batch_leaves_the_statistics_alone(value):
    norm = SyncBatchNorm(3).train()
    norm(torch.randn(8, 3))
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    norm(torch.tensor([[value, 0.0, 1.0], [0.0, 1.0, 2.0]]))
    assert all(torch.equal(buffer, before[name]) for name, buffer in norm.named_buffers())


def test_it_is_torchs_batch_norm_on_finite_batches():
    ours, theirs = SyncBatchNorm(3).train(), nn.BatchNorm1d(3).train()
    for seed in range(3):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed), requires_grad=True)
        y = x.detach().clone().requires_grad_()
        out = ours(x)
        assert torch.equal(out, theirs(y))
        out.square().sum().backward()
        theirs(y).detach()  # a later batch moves the statistics before the gradient is asked for
        ours(x).detach()
        theirs(y).square().sum().backward()
        ours(x)
        assert torch.allclose(x.grad, y.grad, atol=1e-6)
    for name, buffer in ours.named_buffers():
        assert torch.equal(buffer, theirs.get_buffer(name)), name
