import pytest
import torch

from pgseg_mm.models.layers.regions import RegionLayout, presence, whole_images


def layout_of(labels, captions) -> RegionLayout:
    return RegionLayout(torch.tensor(labels), torch.tensor(captions))


def test_shares_of_patches_that_a_border_cuts():
    labels = [[0, 0, 0, 1], [0, 0, 0, 1]]  # patches of 2 x 2: the second is half and half
    shares = layout_of(labels, [[0, 1]]).shares((1, 2))
    assert shares.tolist() == [[[1.0, 0.5]], [[0.0, 0.5]]]


def test_pixels_that_fill_no_patch_belong_to_none():
    # patches of 2 x 2 on 3 x 5 pixels: one row of two, and a border between them
    layout = layout_of([[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], [[0, 1]])
    assert layout.covered((1, 2), 2).shares((1, 2)).tolist() == [[[1.0, 0.0]], [[0.0, 1.0]]]
    # a backbone that pads sees all of them, and so does one whose patches fill the image
    assert layout.covered((2, 3), 2) is layout
    assert layout.covered((3, 5), 1).labels.shape == (3, 5)


def test_whole_images_are_one_region_each():
    layout = whole_images(torch.rand(3, 3, 8, 8))
    assert layout.captions.tolist() == [[0], [1], [2]]
    assert layout.shares((2, 2)).eq(1).all()


def test_presence_by_hand():
    # six patches in a row, regions are the first four and the last two; group 0 has three patches
    # of the first region, group 1 its fourth, group 2 one of each region, the last one shared
    assignment = torch.tensor([[[1, 1, 1, 0, 0, 0], [0, 0, 0, 0.5, 0, 0], [0, 0, 0, 0.5, 1, 1.0]]])
    shares = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1.0]])
    found = presence(assignment[:, :, None], shares[:, None])
    # shares of the groups in the regions: (1, 1, 0.2) and (0, 0, 0.8)
    torch.testing.assert_close(found, torch.tensor([[[1, 1, 0.2], [0, 0, 2.2]]]) / 2.2)


def test_a_small_group_counts_as_much_as_a_large_one():
    assignment = torch.zeros(1, 2, 1, 8)
    assignment[0, 0, 0, :7] = 1
    assignment[0, 1, 0, 7:] = 1
    found = presence(assignment, torch.ones(1, 1, 8))
    torch.testing.assert_close(found, torch.full((1, 1, 2), 0.5))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_and_empty_groups_stay_finite(dtype):
    assignment = torch.zeros(1, 3, 2, 2, dtype=dtype)
    assignment[:, 0] = 1
    assignment.requires_grad_()
    found = presence(assignment, torch.tensor([[[1, 1], [0, 0]], [[0, 0], [1, 1.0]]]))
    found.sum().backward()
    assert found.isfinite().all() and assignment.grad.isfinite().all()
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
