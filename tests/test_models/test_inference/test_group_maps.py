"""Groups and prototypes of whole images, which pictures show."""

import pytest
import torch
from mmseg.structures import SegDataSample

from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.models.inference import group_maps as module
from pgseg_mm.models.inference.group_maps import group_maps
from pgseg_mm.models.inference.image_geometry import flip_direction
from pgseg_mm.models.layers import NonLearnablePrototypes

CLASSES = ['dog', 'cat', 'grass', 'sky']
NAMES = {'stage_0', 'stage_1', 'prototypes_0', 'prototypes_1'}


def sliding_model(**kwargs):
    test_cfg = dict(mode='slide', crop_size=32, stride=16, groups=True)
    return tiny_model(vocabulary=CLASSES, test_cfg=test_cfg, **kwargs)


def maps_of(model, image) -> dict[str, torch.Tensor]:
    return group_maps(model.backbone, model.decode_head, image)


def test_samples_get_the_groups_of_the_whole_image():
    model = sliding_model()
    image = torch.rand(3, 40, 56)
    (sample,) = model.predict([image])
    assert set(sample.pred_groups.keys()) == NAMES
    whole = model.extract_feat(image[None])
    for stage in (0, 1):
        expected = model.decode_head.assign_pixels(whole, (40, 56), stage)
        assert torch.equal(sample.pred_groups.get(f'stage_{stage}').long(), expected)
        assert sample.pred_groups.get(f'prototypes_{stage}').shape == (1, 40, 56)


def test_nothing_is_computed_unless_it_is_asked_for():
    model = sliding_model()
    sizes = []
    model.backbone.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[-2:]))
    for groups, expected in ((True, [(32, 32), (40, 56)]), (False, [(32, 32)])):
        sizes.clear()
        model.test_cfg['groups'] = groups
        (sample,) = model.predict(torch.rand(1, 3, 40, 56))
        assert sizes == expected
        assert ('pred_groups' in sample) == groups


def test_prototypes_are_the_nearest_of_patches_and_of_their_groups(monkeypatch):
    model = sliding_model()
    for stage in model.backbone.stages[:2]:
        stage.prototypes.num_iters = 1  # later on they are all alike in a model without training
    image = torch.rand(3, 32, 32)
    monkeypatch.setattr(module, 'MAX_MAP_SIDE', 4)  # a pixel a patch
    maps = maps_of(model, image)
    features = model.extract_feat(image[None])
    patches, _ = model.backbone._embed_patches(image[None])
    nearest = (patches[0] @ features.prototypes[0][0].T).argmax(1)
    assert torch.equal(maps['prototypes_0'].flatten().long(), nearest)
    first = model.backbone.stages[0](patches).tokens
    soft = (first[0] @ features.prototypes[1][0].T).softmax(1)
    nearest = (features.assignments[0][0].T @ soft).argmax(1)
    assert torch.equal(maps['prototypes_1'].flatten().long(), nearest)


def test_prototypes_that_name_no_token_have_no_maps(monkeypatch):
    model = sliding_model()
    expected = maps_of(model, torch.rand(3, 32, 40))
    monkeypatch.delattr(NonLearnablePrototypes, 'assign')
    found = maps_of(model, torch.rand(3, 32, 40))
    assert set(found) == {name for name in expected if name.startswith('stage')}


def test_groupvit_has_groups_only():
    backbone = dict(tiny_model_cfg()['backbone'], prototypes=None)
    assert set(maps_of(sliding_model(backbone=backbone), torch.rand(3, 32, 40))) == NAMES - {
        'prototypes_0',
        'prototypes_1',
    }


@pytest.mark.parametrize(('direction', 'axes'), [('horizontal', 2), ('vertical', 1)])
def test_padding_and_flip_are_undone(direction, axes):
    model = sliding_model()
    image = torch.rand(3, 40, 56)
    plain = maps_of(model, image)
    padded = torch.nn.functional.pad(image, (3, 2, 1, 4))
    meta = dict(padding_size=[3, 2, 1, 4], flip=True, flip_direction=direction)
    (sample,) = model.predict([padded], [SegDataSample(metainfo=meta)])
    for name, indices in plain.items():
        assert torch.equal(sample.pred_groups.get(name), indices.flip(axes))


def test_a_mirrored_image_is_mirrored_sideways_unless_it_says_how():
    assert flip_direction(dict(flip=True)) == flip_direction(dict(flip=True, flip_direction=None))
    assert flip_direction(dict(flip=True)) == 'horizontal'
    assert flip_direction(dict(flip=False, flip_direction='vertical')) is None


def test_large_images_are_shrunk(monkeypatch):
    model = sliding_model()
    monkeypatch.setattr(module, 'MAX_AREA', 64 * 80)
    monkeypatch.setattr(module, 'MAX_MAP_SIDE', 50)
    sizes = []
    model.backbone.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape)))
    maps = maps_of(model, torch.rand(3, 128, 160))
    assert sizes == [(1, 3, 64, 80)]
    assert all(indices.shape == (1, 40, 50) for indices in maps.values())
    maps = maps_of(model, torch.rand(3, 40, 2000))  # a thin one keeps its height
    assert sizes[1][2] == 40 and sizes[1][3] < 600
    assert maps['stage_0'].shape == (1, 1, 50)


def test_the_model_is_left_without_hooks():
    model = sliding_model()
    maps_of(model, torch.rand(3, 32, 32))
    assert not any(part._forward_pre_hooks for part in model.modules())
