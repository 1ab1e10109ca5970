import pytest
import torch

from pgseg_mm.models.layers.precision import at_least_float32


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(dtype):
    x = torch.randn(3, dtype=dtype)
    assert at_least_float32(x).dtype == torch.float32
    assert torch.equal(at_least_float32(x).to(dtype), x)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_full_precision_is_left_alone(dtype):
    x = torch.randn(3, dtype=dtype)
    assert at_least_float32(x) is x
