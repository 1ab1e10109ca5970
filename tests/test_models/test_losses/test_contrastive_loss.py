import math

import pytest
import torch

from pgseg_mm.models.losses import ImageTextContrastiveLoss


def test_two_pairs_by_hand():
    """Cosines are 1 on the diagonal and 0 off it, whatever the lengths."""
    loss = ImageTextContrastiveLoss(temperature=0.5)
    images, texts = torch.diag(torch.tensor([3.0, 1.0])), torch.diag(torch.tensor([1.0, 7.0]))
    expected = -math.log(math.exp(2) / (math.exp(2) + 1))
    assert loss(images, texts).item() == pytest.approx(expected, rel=1e-5)


def test_mean_of_both_directions_by_hand():
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # two equal images
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = ImageTextContrastiveLoss(temperature=1.0)
    image_to_text = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    text_to_image = math.log(2)
    expected = (image_to_text + text_to_image) / 2
    assert loss(images, texts).item() == pytest.approx(expected, rel=1e-5)


def test_scale_is_clamped_at_100():
    loss = ImageTextContrastiveLoss(temperature=0.001)
    assert loss.scale.item() == 100
    assert loss.temperature.item() == pytest.approx(0.01)


def test_weight_and_gradients_of_temperature_and_both_sides():
    images, texts = (torch.randn(4, 8, requires_grad=True) for _ in range(2))
    loss = ImageTextContrastiveLoss(loss_weight=3.0)
    value = loss(images, texts)
    value.backward()
    assert all(t.grad.abs().sum() > 0 for t in (images, texts, loss.logit_scale))
    assert value.item() == pytest.approx(3 * ImageTextContrastiveLoss()(images, texts).item())


def test_float32_under_autocast():
    images, texts = torch.randn(4, 8), torch.randn(4, 8)
    loss = ImageTextContrastiveLoss()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(loss(images, texts), loss(images, texts).float())
        torch.testing.assert_close(loss(images, texts).detach(), _plain(loss, images, texts))


def _plain(loss, images, texts):
    with torch.autocast('cpu', enabled=False):
        return loss(images, texts).detach()


def test_refuses_another_number_of_texts():
    with pytest.raises(ValueError, match='one shape'):
        ImageTextContrastiveLoss()(torch.randn(4, 8), torch.randn(3, 8))


def test_refuses_a_temperature_of_zero():
    with pytest.raises(ValueError, match='positive'):
        ImageTextContrastiveLoss(temperature=0)
