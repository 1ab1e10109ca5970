import pytest
import torch
import torch.nn.functional as F

from pgseg_mm.models.layers.regions import whole_images
from pgseg_mm.models.losses import (
    ImageTextContrastiveLoss,
    MultiLabelContrastiveLoss,
    RegionTextContrast,
)
from region_zoo import halves, normal


def test_with_one_region_it_is_the_contrast_of_the_mean_of_projected_groups():
    tokens, texts = normal(5, 4, 6), normal(5, 6, seed=1)
    assignment = normal(5, 4, 2, 2, seed=2).softmax(dim=1)
    loss, plain = RegionTextContrast(), ImageTextContrastiveLoss()
    expected = plain(F.normalize(tokens, dim=-1).mean(dim=1), texts)
    layout = whole_images(torch.rand(5, 3, 8, 8))
    for given in (None, layout):
        captions = () if given is None else (given.captions.flatten(),)
        found = loss(loss.embed_regions(tokens, assignment, given), texts, *captions)
        torch.testing.assert_close(found, expected)


def test_a_region_teaches_no_group_outside_of_it():
    tokens = normal(1, 2, 6).requires_grad_()
    assignment = torch.zeros(1, 2, 2, 2)
    assignment[:, 0, :, 0] = 1  # group 0 has the left half, group 1 the right one
    assignment[:, 1, :, 1] = 1
    left, right = RegionTextContrast.embed_regions(tokens, assignment, halves([[0, 1]]))
    left.square().sum().add(left.sum()).backward()
    assert tokens.grad[0, 0].abs().min() > 0
    assert not tokens.grad[0, 1].any()
    torch.testing.assert_close(right, F.normalize(tokens[0, 1], dim=-1))


def test_a_group_is_taught_by_its_share_of_what_is_in_the_region():
    tokens = normal(1, 1, 6).repeat(1, 3, 1).requires_grad_()
    assignment = normal(1, 3, 2, 2, seed=1).softmax(dim=1)
    left, _ = RegionTextContrast.embed_regions(tokens, assignment, halves([[0, 1]]))
    left.sum().backward()
    inside = assignment[0, :, :, 0].sum(dim=1) / assignment[0].sum(dim=(1, 2))
    expected = inside / inside.sum()
    taught = tokens.grad[0].norm(dim=-1)
    torch.testing.assert_close(taught / taught.sum(), expected)


def test_a_group_in_two_regions_is_taught_by_both():
    tokens = normal(1, 2, 6).requires_grad_()
    assignment = torch.full((1, 2, 2, 2), 0.5)
    for region in RegionTextContrast.embed_regions(tokens, assignment, halves([[0, 1]])):
        (gradient,) = torch.autograd.grad(region.sum(), tokens, retain_graph=True)
        assert gradient.abs().sum(dim=-1).min() > 0


def test_the_assignment_learns_where_the_words_are():
    tokens = torch.eye(2)[None] * 3  # group 0 is what caption 0 says, group 1 caption 1
    logits = torch.zeros(1, 2, 2, 2, requires_grad=True)
    loss = RegionTextContrast()
    regions = loss.embed_regions(tokens, logits.softmax(dim=1), halves([[0, 1]]))
    loss(regions, torch.eye(2), torch.tensor([0, 1])).backward()
    left, right = -logits.grad[0, 0, :, 0], -logits.grad[0, 0, :, 1]
    assert left.min() > 0 > right.max()  # group 0 is to grow on the left and to shrink on the right


def test_regions_of_one_caption_share_its_target():
    regions, texts = normal(4, 6), normal(2, 6, seed=1)
    captions = torch.tensor([0, 1, 1, 1])
    loss = RegionTextContrast(temperature=0.5)
    logits = 2 * F.normalize(regions, dim=-1) @ F.normalize(texts, dim=-1).T
    to_text = -logits.log_softmax(dim=1)[torch.arange(4), captions].mean()
    of_region = logits.T.log_softmax(dim=1)
    to_region = -(of_region[0, 0] + of_region[1, 1:].mean()) / 2
    torch.testing.assert_close(loss(regions, texts, captions), (to_text + to_region) / 2)


def test_captions_in_order_are_those_of_images():
    regions, texts = normal(5, 6), normal(5, 6, seed=1)
    loss = RegionTextContrast()
    torch.testing.assert_close(loss(regions, texts, torch.arange(5)), loss(regions, texts))


def test_prompts_of_a_regions_caption():
    regions, prompts = normal(4, 6), normal(2, 3, 6, seed=1)
    captions, scale = torch.tensor([1, 0, 0, 1]), torch.tensor(4.0)
    found = MultiLabelContrastiveLoss()(regions, prompts, scale, captions)
    logits = 4 * F.normalize(regions, dim=-1) @ F.normalize(prompts, dim=-1).flatten(0, 1).T
    of_region, of_prompt = logits.log_softmax(dim=1), logits.T.log_softmax(dim=1)
    own = torch.stack([of_region[r, 3 * c : 3 * c + 3].mean() for r, c in enumerate(captions)])
    of_prompt = of_prompt.unflatten(0, (2, 3))
    back = torch.stack([of_prompt[c][:, captions == c].mean() for c in range(2)])
    torch.testing.assert_close(found, -(own.mean() + back.mean()) / 2)


@pytest.mark.parametrize(
    ('regions', 'texts', 'captions'),
    [((4, 6), (3, 6), None), ((4, 6), (3, 6), [0, 1, 2]), ((4, 5), (4, 6), None)],
)
def test_refuses_shapes_that_do_not_fit(regions, texts, captions):
    captions = None if captions is None else torch.tensor(captions)
    with pytest.raises(ValueError, match=r'expected \(\d, 6\) embeddings of regions'):
        RegionTextContrast()(normal(*regions), normal(*texts), captions)


def test_refuses_the_layout_of_other_images():
    with pytest.raises(ValueError, match='regions of 1 images, but there are groups of 3'):
        RegionTextContrast.embed_regions(normal(3, 2, 6), torch.rand(3, 2, 2, 2), halves([[0, 1]]))


def test_its_weight_is_a_factor():
    regions, texts = normal(5, 6), normal(5, 6, seed=1)
    whole = RegionTextContrast()(regions, texts, torch.arange(5))
    half = RegionTextContrast(loss_weight=0.5)(regions, texts, torch.arange(5))
    torch.testing.assert_close(half, whole / 2)
