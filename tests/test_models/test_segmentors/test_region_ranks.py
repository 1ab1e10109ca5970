"""Images that two ranks join have the losses and gradients of the joined batch."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub

from distributed import WORLD_SIZE, on_two_ranks
from pgseg_mm.engine import StepSeedHook
from pgseg_mm.models.layers.dist import STEP_SEED
from pgseg_mm.models.layers.regions import RegionLayout
from region_zoo import MOSAICS, PASTES, pairs, region_model

BOTH_STAGES = {'loss_npr_0', 'loss_npr_1', 'loss_npr_text', 'loss_contrastive', 'loss_multi_label'}


pytestmark = pytest.mark.usefixtures('fixed_step_seed')


def build(augments, prompts, size=None):
    return region_model(augments, prompts, train_cfg=dict(micro_batch_size=size)).double()


def losses_and_gradients(model, batch) -> dict[str, torch.Tensor]:
    found = model(**batch, mode='loss')
    losses = {name: value for name, value in found.items() if name.startswith('loss')}
    assert losses.keys() == BOTH_STAGES
    model.parse_losses(found)[0].backward()
    out = {name: value.detach() for name, value in losses.items()}
    return out | {f'grad {name}': p.grad for name, p in model.named_parameters()}


def run(
    rank: int, augments: dict | None, prompts: str, size: int | None
) -> dict[str, torch.Tensor]:
    model = build(augments, prompts, size)
    half = {name: value.chunk(WORLD_SIZE)[rank] for name, value in pairs(prompts=True).items()}
    batch = model.data_preprocessor(half, training=True)
    batch['inputs'] = batch['inputs'].double()
    joined = {'inputs': batch['inputs']}
    if augments is not None:
        joined.update(batch['regions']._asdict())
    return losses_and_gradients(model, batch) | joined


@pytest.mark.parametrize(
    'prompts, size',
    [
        ('MultiLabelContrastiveLoss', None),
        ('LateInteractionLoss', None),
        ('LateInteractionLoss', 3),
    ],
)
@pytest.mark.parametrize('augments', [None, PASTES, MOSAICS], ids=['whole', 'pastes', 'mosaics'])
def test_two_ranks_have_the_losses_and_gradients_of_the_joined_batch(
    tmp_path, augments, prompts, size
):
    ranks = on_two_ranks(run, augments, prompts, size, folder=tmp_path)
    batch = {
        'inputs': torch.cat([rank['inputs'] for rank in ranks]),
        'tokens': pairs(prompts=True)['tokens'],
    }
    if augments is not None:
        one, other = (RegionLayout(rank['labels'], rank['captions']) for rank in ranks)
        assert torch.equal(one.labels, other.labels)
        assert len(one.labels.unique()) > 1
        captions = torch.cat([one.captions, other.captions + 4])
        batch['regions'] = RegionLayout(one.labels, captions)
    whole = losses_and_gradients(build(augments, prompts), batch)
    for name, expected in whole.items():
        # losses are taken in float32
        found = sum(rank[name] for rank in ranks) / WORLD_SIZE  # as DDP averages them
        close = torch.isclose(found, expected, atol=2e-5, rtol=1e-3)
        assert close.all(), f'{name}: {(found - expected).abs().max()}'


def draw(rank: int) -> torch.Tensor:
    MessageHub.get_current_instance().runtime_info.pop(STEP_SEED, None)
    torch.manual_seed(rank)
    model = region_model(PASTES)
    torch.manual_seed(rank)  # the model is made of random numbers
    return model.data_preprocessor(pairs(), training=True)['regions'].labels


def test_ranks_that_draw_different_numbers_join_at_the_same_places(tmp_path):
    """Without the hook that seeds a step, too."""
    one, other = on_two_ranks(draw, folder=tmp_path)
    assert torch.equal(one, other)


def seeded(rank: int) -> list[float]:
    hub = MessageHub.get_instance('models-in-training')
    runner = SimpleNamespace(seed=5 + rank, iter=3, message_hub=hub)  # diff_rank_seed
    hook = StepSeedHook()
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    return [hub.get_info(STEP_SEED), torch.rand(()).item()]


def test_a_step_has_one_seed_for_all_ranks_and_noise_of_each(tmp_path):
    one, other = on_two_ranks(seeded, folder=tmp_path)
    assert one[0] == other[0] and one[1] != other[1]
