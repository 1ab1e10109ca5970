"""What becomes of the pixels of a batch, and whether the layout tells it."""

import collections

import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from mmseg.registry import MODELS

from pgseg_mm.models.batch_augments import MosaicImages, PasteImages, RandomBatchAugment
from pgseg_mm.models.layers.dist import STEP_SEED


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat_images(number: int, height: int = 16, width: int = 24) -> torch.Tensor:
    """Image i has the value i everywhere, so that pixels say where they come from."""
    return torch.arange(number).float().view(-1, 1, 1, 1).expand(-1, 3, height, width).clone()


@pytest.fixture
def step_seed():
    hub = MessageHub.get_current_instance()

    def set_to(seed):
        hub.update_info(STEP_SEED, seed, resumed=False)

    yield set_to
    hub.runtime_info.pop(STEP_SEED, None)


def assert_pixels_have_their_captions(images, layout):
    for image, captions in zip(images, layout.captions, strict=True):
        torch.testing.assert_close(image, captions[layout.labels].float().expand_as(image))


@pytest.mark.parametrize(
    'augment',
    [
        PasteImages(grid=8, sizes=(3, 4, 5)),
        PasteImages(grid=2, sizes=(1,)),
        MosaicImages(),
        MosaicImages(rows=1, columns=3),
        MosaicImages(scale=0.5),
    ],
    ids=repr,
)
@pytest.mark.parametrize('number', [2, 5, 8])
def test_every_pixel_has_the_caption_of_its_image_and_every_caption_a_region(augment, number):
    for seed in range(10):
        images, layout = augment(flat_images(number), seeded(seed))
        assert layout.labels.shape == images.shape[-2:]
        assert len(layout.captions) == len(images)
        assert_pixels_have_their_captions(images, layout)
        assert set(layout.captions.flatten().tolist()) == set(range(number))
        assert set(layout.labels.flatten().tolist()) == set(range(layout.num_regions))


def test_pastes_are_drawn_in_all_sizes_at_all_places_of_the_grid():
    places = collections.Counter()
    for seed in range(400):
        images, layout = PasteImages()(flat_images(6), seeded(seed))
        assert images.shape == (6, 3, 16, 24)
        assert layout.captions[:, 0].tolist() == list(range(6))
        assert (layout.captions[:, 0] != layout.captions[:, 1]).all()
        rows, columns = layout.labels.nonzero().T
        assert rows.min() % 2 == 0 and columns.min() % 3 == 0  # cells of 2 x 3 pixels
        places[
            (rows.max() + 1 - rows.min()).item(), (columns.max() + 1 - columns.min()).item()
        ] += 1
    assert set(places) == {(6, 9), (8, 12), (10, 15)}
    assert min(places.values()) > 80


def test_a_pasted_image_is_whole_and_shrunk():
    images = flat_images(2)
    images[1, :, :, 12:] = 7
    pasted, layout = PasteImages(grid=2, sizes=(1,))(images, seeded())
    rows, columns = layout.labels.nonzero().T
    inside = pasted[0, 0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert inside.shape == (8, 12)
    assert inside[:, :5].eq(1).all() and inside[:, 7:].eq(7).all()


def test_the_images_handed_over_stay_as_they_are():
    images = flat_images(4)
    for augment in (PasteImages(), MosaicImages()):
        augment(images, seeded())
    assert torch.equal(images, flat_images(4))


@pytest.mark.parametrize(
    ('scale', 'number', 'shape'),
    [
        (1.0, 8, (2, 3, 32, 48)),
        (1.0, 7, (2, 3, 32, 48)),
        (0.5, 8, (8, 3, 16, 24)),
        (0.5, 2, (2, 3, 16, 24)),
    ],
)
def test_mosaics_have_the_pixels_of_the_batch(scale, number, shape):
    mosaics, layout = MosaicImages(scale=scale)(flat_images(number), seeded())
    assert mosaics.shape == shape
    counts = layout.captions.flatten().bincount(minlength=number)
    assert counts.max() - counts.min() <= 1


def test_chance_is_as_asked_and_the_rest_stays_whole(step_seed):
    augment = RandomBatchAugment(
        [dict(type='PasteImages'), dict(type='MosaicImages')], probs=[0.5, 0.2]
    )
    kinds = collections.Counter()
    for seed in range(600):
        step_seed(seed)
        images, layout = augment(flat_images(4))
        kinds[layout.num_regions] += 1
        assert_pixels_have_their_captions(images, layout)
    assert kinds[2] == pytest.approx(300, abs=50)
    assert kinds[4] == pytest.approx(120, abs=40)
    assert kinds[1] == pytest.approx(180, abs=50)


def test_a_step_decides_whatever_else_is_drawn(step_seed):
    augment = RandomBatchAugment(dict(type='PasteImages'))
    step_seed(5)
    torch.manual_seed(1)  # as another rank
    one = augment(flat_images(4))
    torch.manual_seed(2)
    other = augment(flat_images(4))
    step_seed(6)
    next_step = augment(flat_images(4))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1].labels, other[1].labels)
    assert not torch.equal(one[0], next_step[0])


def test_without_the_hook_torch_decides():
    MessageHub.get_instance('batch-augments-without-the-hook')
    augment = RandomBatchAugment(dict(type='PasteImages'))
    torch.manual_seed(1)
    one = augment(flat_images(4))[0]
    torch.manual_seed(1)
    assert torch.equal(augment(flat_images(4))[0], one)
    assert any(not torch.equal(augment(flat_images(4))[0], one) for _ in range(5))


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(augments=[dict(type='PasteImages')], probs=[0.5, 0.5]), '1 augments and 2 probs'),
        (dict(augments=[dict(type='PasteImages')], probs=[1.5]), 'sum up to 1'),
        (dict(augments=[dict(type='PasteImages')], probs=-0.5), 'not be negative'),
        (dict(augments=dict(type='PasteImages', sizes=(8,))), 'from 1 to 7, got 8'),
        (dict(augments=dict(type='PasteImages', sizes=3)), 'one or several, got 3'),
        (dict(augments=dict(type='PasteImages', grid=8.5)), 'grid .* at least 2, got 8.5'),
        (dict(augments=[]), 'no augments'),
        (dict(augments=[dict(type='PasteImages')], probs=[float('nan')]), 'sum up to 1'),
        (dict(augments=[dict(type='PasteImages')], probs='half'), 'sum up to 1'),
        (dict(augments=dict(type='MosaicImages', rows=1, columns=1)), 'several tiles'),
        (dict(augments=dict(type='MosaicImages', rows=2.5)), 'rows .* at least 1, got 2.5'),
        (dict(augments=dict(type='MosaicImages', scale=2)), r'in \(0, 1\]'),
    ],
)
def test_refuses(cfg, message):
    with pytest.raises(ValueError, match=message):
        RandomBatchAugment(**cfg)


def test_refuses_what_cannot_be_pasted():
    augment = MODELS.build(dict(type='PasteImages', grid=5, sizes=(2,)))
    with pytest.raises(ValueError, match='does not divide images of 16 x 24'):
        augment(flat_images(2), seeded())
    with pytest.raises(ValueError, match='has only one; take a larger batch_size'):
        PasteImages()(flat_images(1), seeded())


@pytest.mark.gpu
@pytest.mark.parametrize(
    'augment', [PasteImages(), MosaicImages(), MosaicImages(scale=0.5)], ids=repr
)
def test_joining_does_not_wait_for_the_gpu(augment):
    images = flat_images(8).cuda()
    expected, layout = augment(flat_images(8), seeded())
    augment(images, seeded())  # what is made on first use
    torch.cuda.set_sync_debug_mode('error')
    try:
        found, found_layout = augment(images, seeded())
    finally:
        torch.cuda.set_sync_debug_mode('default')
    torch.testing.assert_close(found.cpu(), expected)
    assert torch.equal(found_layout.captions.cpu(), layout.captions)


def test_any_other_image_of_the_batch_may_be_pasted():
    partners = [PasteImages()(flat_images(5), seeded(seed))[1].captions[0, 1] for seed in range(60)]
    assert {int(partner) for partner in partners} == {1, 2, 3, 4}


def test_tiles_are_shrunk_without_aliasing():
    images = torch.rand(2, 3, 16, 24, generator=seeded())
    mosaics, layout = MosaicImages(scale=0.5)(images, seeded())
    small = F.interpolate(images, (8, 12), mode='bilinear', antialias=True)
    torch.testing.assert_close(mosaics[0, :, :8, :12], small[layout.captions[0, 0]])
