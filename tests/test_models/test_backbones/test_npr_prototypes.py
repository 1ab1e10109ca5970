"""PGSegViT makes NPR's prototypes by every option, whatever else a training has."""

import pytest
import torch

from distributed import WORLD_SIZE, on_two_ranks
from model_zoo import tiny_model, tiny_model_cfg
from pgseg_mm.models import PGSegViT
from pgseg_mm.models.inference.group_maps import group_maps
from pgseg_mm.models.layers import NonLearnablePrototypes
from pgseg_mm.models.layers.regions import RegionLayout
from pgseg_mm.models.losses import NPRLoss
from pgseg_mm.text import tokenize

CAPTIONS = ['a dog', 'a cat on grass', 'two birds', 'a red fox', 'the sky', 'a car', 'mud', 'a bee']
OPTIONS = {
    'temperature': dict(temperature=0.1),
    'farthest': dict(start='farthest'),
    'kmeans++': dict(start='kmeans++', temperature=0.1),
    'sinkhorn': dict(balance='sinkhorn'),
    'blocks': dict(source='blocks', temperature=0.1),
    'shared': dict(shared=True, temperature=0.1),
    'regions': dict(regions=True, temperature=0.1, start='farthest'),
    'all': dict(source='blocks', regions=True, start='kmeans++', balance='sinkhorn'),
    'all shared': dict(source='blocks', shared=True, balance='sinkhorn', temperature=0.1),
}


pytestmark = pytest.mark.usefixtures('fixed_step_seed')


def backbone_with(options: dict) -> PGSegViT:
    cfg = tiny_model_cfg()['backbone']
    cfg.pop('type')
    cfg.update(gumbel=False, drop_path_rate=0.0, num_output_groups=(8, 4))
    cfg['prototypes'].update(options)
    torch.manual_seed(0)
    return PGSegViT(**cfg).train()


def images(rows: slice = slice(None)) -> torch.Tensor:
    return torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))[rows].double()


def quarters(number: int) -> RegionLayout:
    """Four regions of each image, whose borders are those of patches."""
    labels = torch.arange(4).view(2, 2).repeat_interleave(16, 0).repeat_interleave(16, 1)
    return RegionLayout(labels, torch.arange(4).expand(number, -1))


def step(
    model: PGSegViT, rows: slice = slice(None), size: int | None = None
) -> dict[str, torch.Tensor]:
    """Losses, gradients and state of one training step of the image encoder with NPR."""
    inputs = images(rows)
    features = model.double()(inputs, size, quarters(len(inputs)))
    npr = NPRLoss().double()
    pairs = map(npr.start, features.centres, features.prototypes)
    losses = [*npr.finish(list(pairs)), features.tokens.square().mean()]
    sum(losses).backward()
    out = {f'loss {i}': loss.detach() for i, loss in enumerate(losses)}
    out |= {f'grad {name}': p.grad for name, p in model.named_parameters()}
    return out | {f'state {name}': v.clone() for name, v in model.state_dict().items()}


@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
def test_losses_gradients_and_state_of_micro_batches_are_those_of_the_whole(options):
    published, whole = step(backbone_with({})), step(backbone_with(options))
    assert whole['loss 0'] > 0 and not torch.equal(whole['loss 0'], published['loss 0'])
    assert whole['grad stages.0.group_token'].any()
    pieces = step(backbone_with(options), size=3)
    assert whole.keys() == pieces.keys()
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, atol=1e-8, rtol=1e-6, msg=name)


@pytest.mark.parametrize('name', ['blocks', 'shared', 'regions'])
def test_the_reconstruction_stays_one_of_the_tokens_that_enter(name):
    other = backbone_with(OPTIONS[name]).eval()
    shared = ('temperature', 'start')
    plain = backbone_with({k: v for k, v in OPTIONS[name].items() if k in shared}).eval()
    own = [n for n in other.state_dict() if n.endswith('.npr_prototypes.mu')]
    assert len(own) == 2
    plain.load_state_dict({n: v for n, v in other.state_dict().items() if n not in own})
    inputs = images().float()
    expected, found = plain(inputs), other(inputs, None, quarters(8))
    assert torch.equal(found.tokens, expected.tokens)
    assert not torch.equal(found.prototypes[0], expected.prototypes[0])
    if name == 'regions':  # without any, they are those of whole images
        assert torch.equal(other(inputs).prototypes[0], expected.prototypes[0])


def test_prototypes_of_the_blocks_are_clusters_of_what_leaves_them():
    model = backbone_with(OPTIONS['blocks']).eval()
    left = []
    for stage in model.stages[:2]:
        stage.blocks.register_forward_hook(lambda _, args, out: left.append(out))
    features = model(images().float())
    for stage, (tokens, number) in enumerate(zip(left, (16, 8), strict=True)):
        alone = NonLearnablePrototypes(features.prototypes[stage].shape[1], 24, temperature=0.1)
        alone.mu.copy_(model.stages[stage].npr_prototypes.mu)
        expected = alone.eval()(tokens[:, :number]).prototypes
        torch.testing.assert_close(features.prototypes[stage], expected)


def test_all_images_share_the_prototypes():
    for prototypes in backbone_with(OPTIONS['shared'])(images().float()).prototypes:
        assert torch.equal(prototypes[0], prototypes[7])


def test_regions_have_prototypes_of_their_own_patches_and_of_the_groups_in_them():
    model = backbone_with(OPTIONS['regions'])
    seen = []
    for stage in model.stages[:2]:
        stage.npr_prototypes.register_forward_pre_hook(lambda _, args: seen.append(args))
    layout = quarters(8)
    features = model(images().float(), None, layout)
    patches = layout.labels[::8, ::8].flatten()
    ((x, _, shares), (_, _, of_groups)) = seen
    soft = features.assignments[0][3]
    for region in range(4):
        inside = patches == region
        assert torch.equal(shares[3, region], inside.float())
        alone = NonLearnablePrototypes(2, 24, temperature=0.1, start='farthest')
        found = features.prototypes[0][:, 2 * region : 2 * region + 2]
        torch.testing.assert_close(found, alone(x[:, inside]).prototypes)
        torch.testing.assert_close(of_groups[3, region], soft[:, inside].sum(1) / soft.sum(1))


def run_rank(rank: int, options: dict) -> dict[str, torch.Tensor]:
    return step(backbone_with(options), slice(4 * rank, 4 * rank + 4))


@pytest.mark.parametrize('name', ['kmeans++', 'all shared'])
def test_two_ranks_have_the_losses_and_gradients_of_the_joined_batch(name, tmp_path):
    ranks = on_two_ranks(run_rank, OPTIONS[name], folder=tmp_path)
    for key, value in step(backbone_with(OPTIONS[name])).items():
        if key.startswith('state'):
            for rank in ranks:
                torch.testing.assert_close(rank[key], value, msg=key)
        else:  # DDP averages over ranks
            mean = sum(rank[key] for rank in ranks) / WORLD_SIZE
            torch.testing.assert_close(mean, value, atol=1e-8, rtol=1e-6)


def joined_step(options: dict, columns: int = 2, half: bool = False) -> torch.Tensor:
    """Loss of the first stage's groups in a step of a whole model that joins images."""
    cfg = tiny_model_cfg()
    cfg.pop('type')
    mosaics = dict(type='MosaicImages', rows=1, columns=columns)
    cfg['data_preprocessor']['batch_augments'] = dict(augments=[mosaics], probs=[1.0])
    cfg['backbone'].update(gumbel=False, drop_path_rate=0.0, num_output_groups=(8, 4))
    cfg['backbone']['prototypes'].update(options)
    cfg['decode_head']['loss_contrastive'] = {'type': 'RegionTextContrast'}
    model = tiny_model(**cfg).train()
    tokens = tokenize(CAPTIONS, context_length=16)
    pairs = dict(inputs=images().float() * 255, tokens=tokens)
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=half):
        losses = model(**model.data_preprocessor(pairs, training=True), mode='loss')
    model.parse_losses(losses)[0].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    return losses['loss_npr_0'].detach()


def test_half_precision_comes_near_with_regions_of_joined_images():
    whole = joined_step(dict(temperature=0.1, start='farthest', source='blocks'))
    parts, half = (joined_step(OPTIONS['all'], half=half) for half in (False, True))
    assert not torch.isclose(parts, whole)
    torch.testing.assert_close(half, parts, atol=0.05, rtol=0.1)


def test_regions_that_do_not_divide_the_prototypes_are_refused():
    with pytest.raises(ValueError, match='8 prototypes cannot be those of 3 regions'):
        joined_step(OPTIONS['regions'], columns=3)


def test_pictures_show_the_prototypes_that_groups_are_compared_with(monkeypatch):
    cfg = tiny_model_cfg()['backbone']
    cfg['prototypes'].update(source='blocks', start='farthest', temperature=0.01)
    model = tiny_model(backbone=cfg)
    monkeypatch.setattr('pgseg_mm.models.inference.group_maps.MAX_MAP_SIDE', 4)  # a pixel a patch
    image, seen = torch.rand(3, 32, 32), []
    stage = model.backbone.stages[0]
    stage.blocks.register_forward_hook(lambda _, args, out: -out)  # far from what enters it
    for maker in (stage.prototypes, stage.npr_prototypes):
        maker.register_forward_hook(lambda _, args, out: seen.append((args[0], out.prototypes)))
    maps = group_maps(model.backbone, model.decode_head, image)
    (entering, _), (leaving, prototypes) = seen
    nearest = (leaving[0] @ prototypes[0].T).argmax(1)
    assert not torch.equal(nearest, (entering[0] @ prototypes[0].T).argmax(1))
    assert torch.equal(maps['prototypes_0'].flatten().long(), nearest)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(source='output'), "source of the prototypes must be one of .*, got 'output'"),
        (dict(shared=True, regions=True), 'either shared by all images or those of regions'),
    ],
)
def test_refuses_options_that_do_not_fit(options, words):
    with pytest.raises(ValueError, match=words):
        backbone_with(options)
