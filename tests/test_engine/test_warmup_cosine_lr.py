import math

import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS

from pgseg_mm.engine import WarmupCosineLR


def rates(num_steps: int, base: float = 1e-4, **kwargs) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = WarmupCosineLR(optimizer, **kwargs)
    values = []
    for _ in range(num_steps):
        values.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return values


def test_published_rates():
    """30 epochs, 10 of warm-up: 7.75e-5 of 1e-4 at the end of it (docs/method.md, 5)."""
    values = rates(30, warmup=10, warmup_start=1e-6, eta_min=1e-5, end=30)
    assert values[0] == pytest.approx(1e-6)
    assert values[5] == pytest.approx(1e-6 + (1e-4 - 1e-6) / 2)
    assert values[10] == pytest.approx(7.75e-5)
    assert values[20] == pytest.approx(1e-5 + 9e-5 * (1 + math.cos(math.pi * 2 / 3)) / 2)


def test_without_warmup_it_is_the_plain_cosine():
    values = rates(10, base=1.0, warmup=0, end=10)
    assert values == pytest.approx([(1 + math.cos(math.pi * i / 10)) / 2 for i in range(10)])


def test_converted_from_epochs_by_the_runners_rule():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = PARAM_SCHEDULERS.build(
        dict(
            type='WarmupCosineLR',
            warmup=2,
            end=6,
            convert_to_iter_based=True,
        ),
        default_args=dict(optimizer=optimizer, epoch_length=5),
    )
    assert (scheduler.warmup, scheduler.end, scheduler.by_epoch) == (10, 30, False)


@pytest.mark.parametrize(
    'kwargs', [dict(warmup=2), dict(warmup=10, end=10), dict(warmup=-1, end=5)]
)
def test_refuses_a_schedule_that_does_not_fit(kwargs):
    with pytest.raises(ValueError, match='WarmupCosineLR needs end|warmup must'):
        rates(1, **kwargs)


def test_a_cosine_that_rises_is_told():
    with pytest.warns(UserWarning, match='the cosine rises, from 6.25e-06 to eta_min=1e-05'):
        rates(3, base=6.25e-6, warmup=1, eta_min=1e-5, end=3)
