import math

import numpy as np
import pytest
import torch
from mmseg.registry import MODELS

from pgseg_mm.models import ImageTextContrastiveLoss, MultiLabelContrastiveLoss


def by_loops(images: np.ndarray, prompts: np.ndarray, scale: float) -> float:
    """docs/method.md, 3.2: one image and one prompt at a time."""

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return a @ b / math.sqrt((a @ a) * (b @ b))

    batch, k, _ = prompts.shape
    image_to_prompt = prompt_to_image = 0.0
    for i in range(batch):
        row = np.exp([scale * cosine(images[i], p) for own in prompts for p in own])
        for j in range(k):
            image_to_prompt -= math.log(row[i * k + j] / row.sum()) / k / batch
            column = np.exp([scale * cosine(prompts[i, j], image) for image in images])
            prompt_to_image -= math.log(column[i] / column.sum()) / k / batch
    return (image_to_prompt + prompt_to_image) / 2


def batch(b: int = 4, k: int = 3, d: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(b, d, generator=generator), torch.randn(b, k, d, generator=generator)


def test_two_images_with_two_prompts_by_hand():
    """Both prompts of an image lie on it, at right angles to the other image."""
    images = torch.eye(2)
    prompts = torch.tensor([[[2.0, 0], [3.0, 0]], [[0, 1.0], [0, 5.0]]])
    image_to_prompt = math.log(2 * math.e + 2) - 1  # half a target on each of the own two
    prompt_to_image = math.log(math.e + 1) - 1
    value = MultiLabelContrastiveLoss()(images, prompts, torch.tensor(1.0))
    assert value.item() == pytest.approx((image_to_prompt + prompt_to_image) / 2, rel=1e-6)


@pytest.mark.parametrize('k', [1, 2, 5])
def test_as_written_in_loops(k):
    images, prompts = batch(k=k)
    value = MultiLabelContrastiveLoss(loss_weight=0.5)(images, prompts, torch.tensor(14.0))
    expected = by_loops(images.double().numpy(), prompts.double().numpy(), 14.0)
    assert value.item() == pytest.approx(0.5 * expected, rel=1e-5)


def test_one_prompt_is_the_image_text_contrast():
    images, prompts = batch(k=1)
    contrast = ImageTextContrastiveLoss(temperature=0.2)
    value = MultiLabelContrastiveLoss()(images, prompts, contrast.scale)
    torch.testing.assert_close(value, contrast(images, prompts[:, 0]))


def test_gradients_reach_images_prompts_and_the_shared_temperature():
    images, prompts = (x.requires_grad_() for x in batch())
    contrast = ImageTextContrastiveLoss()
    loss = MODELS.build(dict(type='MultiLabelContrastiveLoss'))
    loss(images, prompts, contrast.scale).backward()
    assert all(x.grad.abs().sum() > 0 for x in (images, prompts, contrast.logit_scale))
    assert not list(loss.parameters())


def test_float32_under_autocast():
    images, prompts = batch()
    scale = torch.tensor(14.0)
    expected = MultiLabelContrastiveLoss()(images, prompts, scale)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(MultiLabelContrastiveLoss()(images, prompts, scale), expected)
    halves = MultiLabelContrastiveLoss()(images.bfloat16(), prompts.bfloat16(), scale)
    assert halves.dtype == torch.float32


@pytest.mark.parametrize(
    ('images', 'prompts'),
    [((4, 8), (3, 2, 8)), ((4, 8), (4, 2, 6)), ((4, 8), (4, 8)), ((4, 8), (4, 0, 8)), ((8,), (8,))],
)
def test_refuses_shapes_that_do_not_fit(images, prompts):
    with pytest.raises(ValueError, match=r'\(B, K, D\) with K of at least 1, got'):
        MultiLabelContrastiveLoss()(torch.randn(images), torch.randn(prompts), torch.tensor(1.0))
