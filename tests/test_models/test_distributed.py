"""Two ranks compute what one process does with the joined batch, gradients included."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from distributed import WORLD_SIZE, on_two_ranks
from pgseg_mm.models.layers import NonLearnablePrototypes, SyncBatchNorm
from pgseg_mm.models.layers.regions import RegionLayout
from pgseg_mm.models.losses import (
    ImageTextContrastiveLoss,
    MultiLabelContrastiveLoss,
    NPRLoss,
    RegionTextContrast,
)


def batch(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def local(x: torch.Tensor, rank: int) -> torch.Tensor:
    return x.chunk(WORLD_SIZE)[rank].detach().clone().requires_grad_()


def run_norm(
    rank: int, rows: torch.Tensor, sizes: list[int], again: bool
) -> dict[str, torch.Tensor]:
    x = rows.split(sizes)[rank].clone().requires_grad_()
    norm = SyncBatchNorm(6).train()
    out = checkpoint(norm, x, use_reentrant=False) if again else norm(x)
    out.square().mul(rows.split(sizes)[rank]).sum().backward()
    return {
        'out': out.detach(),
        'grad': x.grad,
        'mean': norm.running_mean,
        'var': norm.running_var,
        'steps': norm.num_batches_tracked,
    }


@pytest.mark.parametrize('again', [False, True], ids=['once', 'checkpointed'])
def test_batch_norm_of_ranks_with_different_numbers_of_rows(tmp_path, again):
    rows, sizes = batch(11, 6) * 3 + 1, [7, 4]
    ranks = on_two_ranks(run_norm, rows, sizes, again, folder=tmp_path)
    x = rows.clone().requires_grad_()
    norm = torch.nn.BatchNorm1d(6).train()
    out = norm(x)
    out.square().mul(rows).sum().backward()
    torch.testing.assert_close(torch.cat([r['out'] for r in ranks]), out.detach())
    torch.testing.assert_close(torch.cat([r['grad'] for r in ranks]), x.grad, atol=1e-4, rtol=1e-4)
    for result in ranks:
        torch.testing.assert_close(result['mean'], norm.running_mean)
        torch.testing.assert_close(result['var'], norm.running_var)
        assert result['steps'] == 1


def contrast(images: torch.Tensor, texts: torch.Tensor) -> dict[str, torch.Tensor]:
    loss = ImageTextContrastiveLoss()
    value = loss(images, texts)
    value.backward()
    return {
        'loss': value.detach(),
        'images': images.grad,
        'texts': texts.grad,
        'scale': loss.logit_scale.grad,
    }


def run_contrast(rank: int, images: torch.Tensor, texts: torch.Tensor) -> dict:
    return contrast(local(images, rank), local(texts, rank))


def test_contrast_is_exact_over_the_global_batch(tmp_path):
    images, texts = batch(8, 5), batch(8, 5, seed=1)
    ranks = on_two_ranks(run_contrast, images, texts, folder=tmp_path)
    one = contrast(images.clone().requires_grad_(), texts.clone().requires_grad_())
    mean = sum(r['loss'] for r in ranks) / WORLD_SIZE
    torch.testing.assert_close(mean, one['loss'])
    for name in ('images', 'texts'):  # DDP averages over ranks
        joined = torch.cat([r[name] for r in ranks]) / WORLD_SIZE
        torch.testing.assert_close(joined, one[name])
    torch.testing.assert_close(sum(r['scale'] for r in ranks) / WORLD_SIZE, one['scale'])


def test_no_more_logits_than_local_times_global_batch(tmp_path):
    images, texts = batch(8, 5), batch(8, 5, seed=1)
    shapes = on_two_ranks(run_shapes, images, texts, folder=tmp_path)
    assert shapes == [[(4, 8), (4, 8)]] * WORLD_SIZE


def run_shapes(rank: int, images: torch.Tensor, texts: torch.Tensor) -> list[tuple[int, ...]]:
    shapes = []
    original = torch.nn.functional.cross_entropy
    torch.nn.functional.cross_entropy = lambda logits, target: (
        shapes.append(tuple(logits.shape)) or original(logits, target)
    )
    contrast(local(images, rank), local(texts, rank))
    return shapes


def multi_label(images: torch.Tensor, prompts: torch.Tensor) -> dict[str, torch.Tensor]:
    scale = torch.tensor(5.0, requires_grad=True)
    value = MultiLabelContrastiveLoss()(images, prompts, scale)
    value.backward()
    return {
        'loss': value.detach(),
        'images': images.grad,
        'prompts': prompts.grad,
        'scale': scale.grad,
    }


def run_multi_label(rank: int, images: torch.Tensor, prompts: torch.Tensor) -> dict:
    return multi_label(local(images, rank), local(prompts, rank))


def test_multi_label_contrast_is_exact_over_the_global_batch(tmp_path):
    images, prompts = batch(8, 5), batch(8, 3, 5, seed=1)
    ranks = on_two_ranks(run_multi_label, images, prompts, folder=tmp_path)
    one = multi_label(images.clone().requires_grad_(), prompts.clone().requires_grad_())
    for name in ('loss', 'scale'):
        torch.testing.assert_close(sum(r[name] for r in ranks) / WORLD_SIZE, one[name])
    for name in ('images', 'prompts'):  # DDP averages over ranks
        joined = torch.cat([r[name] for r in ranks]) / WORLD_SIZE
        torch.testing.assert_close(joined, one[name])


def region_contrast(
    groups: torch.Tensor, texts: torch.Tensor, captions: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Contrast of the halves of images that have two groups, half of each everywhere."""
    labels = torch.tensor([[0, 1]])
    assignment = torch.tensor([[0.8, 0.3], [0.2, 0.7]])[None, :, None].expand(len(groups), 2, 1, 2)
    loss = RegionTextContrast()
    regions = loss.embed_regions(groups, assignment, RegionLayout(labels, captions))
    value = loss(regions, texts, captions.flatten())
    value.backward()
    return {
        'loss': value.detach(),
        'scale': loss.logit_scale.grad,
        'groups': groups.grad,
        'texts': texts.grad,
    }


def run_regions(rank: int, groups: torch.Tensor, texts: torch.Tensor, captions: torch.Tensor):
    return region_contrast(local(groups, rank), local(texts, rank), captions)


def test_region_contrast_is_exact_over_the_global_batch(tmp_path):
    groups, texts = batch(6, 2, 5), batch(4, 5, seed=1)
    captions = torch.tensor([[0, 1], [1, 0], [1, 1]])  # of three images and two texts a rank
    ranks = on_two_ranks(run_regions, groups, texts, captions, folder=tmp_path)
    one = region_contrast(
        groups.clone().requires_grad_(),
        texts.clone().requires_grad_(),
        torch.cat([captions, captions + 2]),
    )
    for name in ('loss', 'scale'):
        torch.testing.assert_close(sum(r[name] for r in ranks) / WORLD_SIZE, one[name])
    for name in ('groups', 'texts'):  # DDP averages over ranks
        joined = torch.cat([r[name] for r in ranks]) / WORLD_SIZE
        torch.testing.assert_close(joined, one[name])


def npr(groups: torch.Tensor, prototypes: torch.Tensor) -> dict[str, torch.Tensor]:
    loss = NPRLoss(loss_weight=1.0, threshold=0.6)
    value = loss(None, groups, prototypes)
    value.backward()
    return {'loss': value.detach(), 'groups': groups.grad}


def run_npr(rank: int, groups: torch.Tensor, prototypes: torch.Tensor) -> dict:
    return npr(local(groups, rank), prototypes.chunk(WORLD_SIZE)[rank])


def test_npr_normalises_over_the_global_number_of_kept_pairs(tmp_path):
    groups, prototypes = batch(6, 4, 8), batch(6, 4, 8, seed=1)
    prototypes[:3] = groups[:3] + 0.1 * prototypes[:3]  # rank 0 keeps more pairs than rank 1
    ranks = on_two_ranks(run_npr, groups, prototypes, folder=tmp_path)
    one = npr(groups.clone().requires_grad_(), prototypes)
    torch.testing.assert_close(sum(r['loss'] for r in ranks) / WORLD_SIZE, one['loss'])
    joined = torch.cat([r['groups'] for r in ranks]) / WORLD_SIZE
    torch.testing.assert_close(joined, one['groups'])


def run_prototypes(rank: int, tokens: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
    module = NonLearnablePrototypes(4, 8).train()
    module.mu.copy_(mu)
    module(tokens.chunk(WORLD_SIZE)[rank])
    return module.mu


def test_prototypes_follow_the_global_batch(tmp_path):
    tokens, module = batch(6, 20, 8), NonLearnablePrototypes(4, 8).train()
    ranks = on_two_ranks(run_prototypes, tokens, module.mu.clone(), folder=tmp_path)
    module(tokens)
    for mu in ranks:
        torch.testing.assert_close(mu, module.mu)
