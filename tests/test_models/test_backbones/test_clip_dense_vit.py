"""CLIPDenseViT against the formulas in numpy, for any tower; and what it refuses."""

import numpy as np
import open_clip
import pytest
import torch
from mmseg.registry import MODELS

from clip_reference import Reference
from pgseg_mm.models import CLIPDenseViT, PrototypeRefinement
from pgseg_mm.models.layers import PATCH_ATTENTIONS, PatchAttention
from tiny_open_clip import CLIP, add_tiny_models, reference_model

TOWERS = {
    'dense-quick': (
        {'image_size': 32, 'patch_size': 8, 'layers': 3, 'width': 32, 'head_width': 16},
        {'embed_dim': 24, 'quick_gelu': True},
    ),
    'dense-gelu': (
        {'image_size': 42, 'patch_size': 14, 'layers': 2, 'width': 48, 'head_width': 16},
        {'embed_dim': 20},
    ),
    'dense-one': (
        {'image_size': 16, 'patch_size': 4, 'layers': 1, 'width': 20, 'head_width': 20},
        {'embed_dim': 28},
    ),
}
NAME = 'dense-quick'


@pytest.fixture(scope='module', autouse=True)
def _tiny_models(tmp_path_factory):
    kinds = {
        name: {'text_cfg': CLIP, 'vision_cfg': vision, **rest}
        for name, (vision, rest) in TOWERS.items()
    }
    kinds['dense-scaled'] = {
        'text_cfg': CLIP,
        'vision_cfg': {**TOWERS[NAME][0], 'ls_init_value': 0.5, 'no_ln_pre': True},
    }
    kinds['dense-average'] = {
        'text_cfg': CLIP,
        'vision_cfg': {**TOWERS[NAME][0], 'pool_type': 'avg'},
    }
    add_tiny_models(tmp_path_factory.mktemp('models'), **kinds)


@pytest.fixture(scope='module')
def references() -> dict[str, torch.nn.Module]:
    return {name: reference_model(name) for name in TOWERS}


def dense(reference: torch.nn.Module | None = None, name: str = NAME, **kwargs) -> CLIPDenseViT:
    model = CLIPDenseViT(name, **kwargs).double().eval()
    if reference is not None:
        model.tower.load_state_dict(reference.visual.state_dict())
    return model


@pytest.mark.parametrize('name', TOWERS)
@pytest.mark.parametrize(
    ('method', 'options'),
    [
        ('clip', {}),
        ('clip', {'residual': False}),
        ('clip', {'gaussian_std': 1.5}),
        ('maskclip', {}),
        ('maskclip', {'residual': False}),
        ('sclip', {}),
        ('sclip', {'gaussian_std': 2.0, 'residual': False}),
        ('clearclip', {}),
        ('clearclip', {'residual': True}),
        ('naclip', {}),
        ('naclip', {'gaussian_std': 2.0}),
        ('naclip', {'residual': True}),
        ('kk', {}),
    ],
    ids=str,
)
@torch.no_grad()
def test_features_are_those_of_the_formulas(references, name, method, options):
    reference = references[name]
    tower = reference.visual
    heads = tower.transformer.resblocks[0].attn.num_heads
    expected = Reference(tower.state_dict(), heads, TOWERS[name][1].get('quick_gelu', False))
    patch = tower.patch_size[0]
    for size, pos_embed in (((2, 7), 'offset'), ((5, 3), 'size'), (tower.grid_size, 'offset')):
        height, width = size[0] * patch + patch - 1, size[1] * patch + 1
        images = torch.randn(2, 3, height, width, dtype=torch.float64)
        model = dense(reference, name, attention=method, pos_embed=pos_embed, **options)
        (found,) = model(images)
        assert found.shape == (2, TOWERS[name][1]['embed_dim'], *size)
        kwargs = {'residual': options.get('residual'), 'std': options.get('gaussian_std')}
        offset = 0.1 if pos_embed == 'offset' else 0.0
        for image, features in zip(images, found, strict=True):
            ours = features.permute(1, 2, 0).numpy()
            theirs = expected.features(image.numpy(), method, offset=offset, **kwargs)
            np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize('method', ['clip', 'sclip', 'clearclip', 'naclip', 'maskclip'])
@torch.no_grad()
def test_blocks_before_the_last_may_attend_so_and_keep_their_residual(references, method):
    reference = references[NAME]
    expected = Reference(reference.visual.state_dict(), 2, True)
    image = torch.randn(3, 24, 40, dtype=torch.float64)
    (found,) = dense(reference, attention=method, attention_layers=2)(image[None])
    theirs = expected.features(image.numpy(), method, layers=2)
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy(), theirs, atol=1e-9)
    if method != 'clip':
        assert not np.allclose(theirs, expected.features(image.numpy(), method))


@torch.no_grad()
def test_plain_patches_are_open_clips_own(references):
    """At the training size: what open_clip returns beside the embedding of the image."""
    reference = references[NAME]
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tower = reference.visual
    _, tokens = tower._pool(tower.transformer(tower._embeds(images)))
    (found,) = dense(reference, attention='clip')(images)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), tokens @ tower.proj)


@torch.no_grad()
def test_towers_with_layer_scale_and_without_a_first_norm():
    reference = reference_model('dense-scaled')
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    tower = reference.visual
    (found,) = dense(reference, 'dense-scaled', attention='clip')(images)
    _, tokens = tower._pool(tower.transformer(tower._embeds(images)))
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), tokens @ tower.proj)


@torch.no_grad()
def test_neighbours_alone_see_nothing_of_what_patches_show(references):
    """The neighbourhood's scale is that of each image; the patches' order does not matter."""
    model = dense(references[NAME], attention='gaussian', gaussian_std=0.5)
    images = torch.randn(3, 3, 24, 40, dtype=torch.float64)
    (together,) = model(images)
    for image, features in zip(images, together, strict=True):
        torch.testing.assert_close(model(image[None])[0][0], features)
    (wide,) = dense(references[NAME], attention='gaussian', gaussian_std=1e6)(images)
    assert wide.flatten(2).std(dim=2).max() < 1e-6 < together.flatten(2).std(dim=2).min()


def test_weights_in_half_precision_and_training_under_a_head(references):
    images = torch.randn(1, 3, 24, 40)
    model = CLIPDenseViT(NAME, attention='naclip', trainable_layers=1)
    model.tower.load_state_dict(references[NAME].visual.state_dict())
    with torch.autocast('cpu', torch.bfloat16):
        (half,) = model(images)
    (full,) = model(images)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, atol=0.1, rtol=0.1)
    full.sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained and all('resblocks.2.' in n or 'ln_post' in n or 'proj' in n for n in trained)


@torch.no_grad()
def test_a_method_of_ones_own(references, monkeypatch):
    own = PatchAttention(lambda q, k, v, _: v.mean(dim=2, keepdim=True).expand_as(v), False)
    monkeypatch.setitem(PATCH_ATTENTIONS, 'mean', own)
    (found,) = dense(references[NAME], attention='mean')(torch.randn(1, 3, 16, 24).double())
    torch.testing.assert_close(found, found[..., :1, :1].expand_as(found))


def test_errors_say_what_to_do():
    for kwargs, message in (
        ({'attention': 'gem'}, 'attention must be one of clip, maskclip, sclip, .*, got .gem.'),
        ({'pos_embed': 'rope'}, "pos_embed must be one of size, offset, got 'rope'"),
        ({'attention': 'maskclip', 'gaussian_std': 5.0}, 'compares no patches'),
        ({'gaussian_std': 0.0}, 'gaussian_std must be None or positive, got 0.0'),
        ({'attention_layers': 4}, 'attention_layers must be from 1 to 3, the number of blocks'),
        ({'attention_layers': 0}, 'attention_layers must be from 1 to 3'),
    ):
        with pytest.raises(ValueError, match=message):
            CLIPDenseViT(NAME, **kwargs)
    with pytest.raises(ValueError, match='not a plain ViT that pools by its class token'):
        CLIPDenseViT('dense-average')
    with pytest.raises(ValueError, match='at least one patch of 8 pixels'):
        CLIPDenseViT(NAME)(torch.zeros(1, 3, 7, 20))


def test_any_name_of_open_clip(tmp_path):
    """A folder with a config, as a model on the hub has it."""
    assert isinstance(MODELS.build(dict(type='CLIPDenseViT', model_name=NAME)), CLIPDenseViT)
    (tmp_path / 'open_clip_config.json').write_text(
        '{"model_cfg": {"embed_dim": 24, "text_cfg": {}, "vision_cfg": '
        '{"image_size": 32, "patch_size": 8, "layers": 1, "width": 32, "head_width": 16}}}'
    )
    assert CLIPDenseViT(f'local-dir:{tmp_path}').embed_dims == 24
    assert NAME in open_clip.list_models()


@pytest.mark.parametrize('method', ['clip', 'maskclip', 'sclip', 'clearclip', 'naclip'])
@torch.no_grad()
def test_any_method_may_have_its_patches_named_by_prototypes(references, method):
    images = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    plain = dense(references[NAME], attention=method)
    refine = dict(type='PrototypeRefinement', num_prototypes=4)
    refined = dense(references[NAME], attention=method, refine=refine)
    assert plain.refine is None and plain.state_dict().keys() == refined.state_dict().keys()
    (patches,), (mixed,) = plain(images), refined(images)
    torch.testing.assert_close(mixed, PrototypeRefinement(4)(patches))
    assert mixed.shape == patches.shape and not torch.allclose(mixed, patches)


@torch.no_grad()
def test_an_export_with_free_sizes_is_right_at_others_and_at_that_of_the_training():
    model = CLIPDenseViT(NAME, attention='naclip', pos_embed='offset').eval()
    free = torch.export.Dim.DYNAMIC
    example = (torch.randn(2, 3, 40, 56),)
    shapes = ({0: free, 2: free, 3: free},)
    exported = torch.export.export(model, example, dynamic_shapes=shapes, strict=False).module()
    for size in ((40, 56), (72, 33), (32, 32)):
        images = torch.randn(3, 3, *size)
        torch.testing.assert_close(exported(images)[0], model(images)[0], atol=1e-5, rtol=1e-5)
    model.refine = PrototypeRefinement(4)
    with pytest.raises(Exception, match='export it for one size, or without refine'):
        torch.export.export(model, example, dynamic_shapes=shapes, strict=False)
