"""ProxyCLIPViT against the formulas in numpy, for images and grids of any shape."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmseg.structures import SegDataSample
from torch import nn

from clip_reference import Reference, softmax
from pgseg_mm.models import OpenVocabSegmentor, ProxyCLIPViT
from pgseg_mm.models.layers import proxy_attention
from tiny_open_clip import CLIP, add_tiny_models, reference_model

NAME = 'proxy-tiny'
VISION = {'image_size': 32, 'patch_size': 8, 'layers': 2, 'width': 32, 'head_width': 16}


class Pooled(nn.Module):
    """Means of cells as the features of a backbone, in a tuple as mmpretrain's give them."""

    def __init__(self, cell: int) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (F.avg_pool2d(images, self.cell),)


@pytest.fixture(scope='module')
def reference(tmp_path_factory) -> torch.nn.Module:
    kind = {'text_cfg': CLIP, 'vision_cfg': VISION, 'quick_gelu': True}
    add_tiny_models(tmp_path_factory.mktemp('models'), **{NAME: kind})
    return reference_model(NAME)


def made(reference, cell=4, **kwargs) -> ProxyCLIPViT:
    model = ProxyCLIPViT(dict(type=Pooled, cell=cell), NAME, **kwargs).double().eval()
    model.tower.load_state_dict(reference.visual.state_dict())
    return model


def in_numpy(reference, image: np.ndarray, cell: int, beta: float, gamma: float) -> np.ndarray:
    """(h', w', D) of an image (3, H, W), with similarities of means of cells."""
    ours = Reference(reference.visual.state_dict(), heads=2, quick_gelu=True)
    x, h, w = ours.embed(image, 0.0)
    x = ours.mlp(
        x + ours.attend(x, 'transformer.resblocks.0', ('qk',), 0), 'transformer.resblocks.0'
    )
    block = 'transformer.resblocks.1'
    y = ours.norm(x, f'{block}.ln_1') @ ours.w[f'{block}.attn.in_proj_weight'][64:].T
    values = (y + ours.w[f'{block}.attn.in_proj_bias'][64:])[1:].reshape(h, w, -1)
    rows, columns = image.shape[1] // cell, image.shape[2] // cell
    values = F.interpolate(
        torch.from_numpy(values).permute(2, 0, 1)[None], size=(rows, columns), mode='bilinear'
    )[0]
    cells = image[:, : rows * cell, : columns * cell].reshape(3, rows, cell, columns, cell)
    e = cells.mean((2, 4)).reshape(3, -1).T
    e = e / np.linalg.norm(e, axis=1, keepdims=True)
    s = e @ e.T
    logits = gamma * (s - beta * s.mean())
    kept = logits >= 0
    kept[~kept.any(1)] = True
    weights = softmax(np.where(kept, logits, -np.inf))
    seen = ours.linear(weights @ values.flatten(1).numpy().T, f'{block}.attn.out_proj')
    return (ours.norm(seen, 'ln_post') @ ours.w['proj']).reshape(rows, columns, -1)


@pytest.mark.parametrize(('size', 'cell'), [((32, 32), 8), ((24, 56), 4), ((40, 16), 8)])
@torch.no_grad()
def test_formulas(reference, size, cell):
    """Any shape, on the grid of the other backbone, one image of a batch not hanging on another."""
    torch.manual_seed(0)
    alike = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)[:, None, None, None]
    images = torch.randn(3, 3, *size, dtype=torch.float64) + alike
    model = made(reference, cell, beta=1.1, gamma=2.0)
    (features,) = model(images)
    assert features.shape == (3, 24, size[0] // cell, size[1] // cell)
    for image, found in zip(images, features, strict=True):
        expected = in_numpy(reference, image.numpy(), cell, 1.1, 2.0)
        np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), expected, atol=1e-9)
    shared = made(reference, cell, beta=1.1, gamma=2.0, shared_mean=True)
    if size == (24, 56):  # with patches enough for another mean to hide others
        assert not torch.allclose(shared(images)[0], features)
    torch.testing.assert_close(shared(images[1:2])[0], features[1:2])


@torch.no_grad()
def test_a_picture_of_one_colour_has_features(reference):
    weights = proxy_attention(torch.ones(1, 5, 3, 4))
    torch.testing.assert_close(weights, torch.full((1, 12, 12), 1 / 12))
    flat = torch.ones(1, 3, 32, 32, dtype=torch.float64)
    for images in (flat, 0 * flat):
        assert made(reference)(images)[0].isfinite().all()


@torch.no_grad()
def test_the_other_backbone_gets_pixels_of_its_own_kind(reference):
    seen = []
    model = made(reference, proxy_mean=[10, 20, 30], proxy_std=[1, 2, 4])
    model.proxy.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64)[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64)[:, None, None]
    pixels = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    model((pixels - mean) / std)
    wanted = torch.stack(
        [255 * pixels[0, 0] - 10, 255 * pixels[0, 1] / 2 - 10, (255 * pixels[0, 2] - 30) / 4]
    )
    torch.testing.assert_close(seen[0][0], wanted)
    with pytest.raises(ValueError, match='give both, or neither'):
        made(reference, proxy_mean=[1, 2, 3])


@pytest.mark.parametrize(('mean', 'std'), [([127.5], [127.5]), ([100.0], [60.0])])
def test_the_other_backbone_gets_the_pixels_that_there_were(reference, mean, std):
    seen = []
    backbone = dict(proxy=dict(type=Pooled, cell=4), proxy_mean=[0, 0, 0], proxy_std=[1, 1, 1])
    model = OpenVocabSegmentor(
        dict(type='ProxyCLIPViT', model_name=NAME, **backbone),
        dict(type='OpenCLIPTextEncoder', model_name=NAME),
        dict(type='DenseCLIPHead', in_channels=reference.visual.output_dim),
        data_preprocessor=dict(type='PGSegDataPreProcessor', mean=mean * 3, std=std * 3),
    ).eval()
    model.backbone.proxy.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    image = torch.full((3, 32, 32), 200, dtype=torch.uint8)
    batch = model.data_preprocessor(dict(inputs=[image], data_samples=[SegDataSample()]))
    model.extract_feat(torch.stack(list(batch['inputs'])))
    torch.testing.assert_close(seen[0], torch.full((1, 3, 32, 32), 200.0))


def test_weights_of_the_other_backbone_are_loaded(reference, tmp_path):
    from mmpretrain.models import VisionTransformer

    arch = dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=24)
    settings = dict(arch=arch, img_size=32, patch_size=8, out_type='featmap')
    other = VisionTransformer(**settings)
    torch.save(other.state_dict(), tmp_path / 'other.pth')
    start = dict(type='Pretrained', checkpoint=str(tmp_path / 'other.pth'))
    proxy = dict(type=VisionTransformer, init_cfg=start, **settings)
    model = ProxyCLIPViT(proxy, NAME)
    for name, value in other.state_dict().items():
        assert torch.equal(model.proxy.state_dict()[name], value), name


def test_half_precision_does_not_decide_who_sees_whom():
    features = torch.randn(2, 48, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        weights = proxy_attention(features)
    assert torch.equal(weights, proxy_attention(features))
