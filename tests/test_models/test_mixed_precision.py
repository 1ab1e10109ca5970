"""A training step under autocast, and what a GPU adds."""

import pytest
import torch

from model_zoo import tiny_model
from pgseg_mm.text import tokenize

TOKENS = tokenize(['a dog', 'a cat', 'grass'], context_length=16)


@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
def test_bf16_training_step(device):
    model = tiny_model().train().to(device)
    mu = model.backbone.stages[0].prototypes.mu.clone()
    with torch.autocast(device, dtype=torch.bfloat16):
        losses = model(
            torch.rand(3, 3, 32, 32, device=device), tokens=TOKENS.to(device), mode='loss'
        )
        total, _ = model.parse_losses(losses)
    total.backward()
    assert all(value.isfinite().all() for value in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert losses['loss_contrastive'].dtype == losses['loss_npr_0'].dtype == torch.float32
    assert not torch.equal(model.backbone.stages[0].prototypes.mu, mu)


def test_bf16_prediction_finds_the_classes_of_float32():
    model = tiny_model(vocabulary=['dog', 'cat', 'grass', 'sky'])
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = model.predict(image)[0].pred_sem_seg.data
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = model.predict(image)[0].pred_sem_seg.data
    assert (found == expected).float().mean() > 0.95


@pytest.mark.gpu
def test_the_losses_copy_nothing_that_waits_for_the_gpu():
    """Matching waits in other threads, on an event; nothing else stops the host."""
    model = tiny_model().train().cuda()
    images, tokens = torch.rand(3, 3, 32, 32, device='cuda'), TOKENS.cuda()
    model(images, tokens=tokens, mode='loss')  # what is made on first use
    torch.cuda.set_sync_debug_mode('error')
    try:
        losses = model(images, tokens=tokens, mode='loss')
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert losses['loss_npr_0'].item() > 0
