"""Position embeddings for another number of patches."""

from collections.abc import Iterator

import pytest
import torch

from pgseg_mm.models.layers import resize_position_embedding

OLD, NEW = (4, 3), (7, 9)


@pytest.fixture
def deterministic(monkeypatch) -> Iterator[None]:
    """Torch's deterministic mode, which products on a GPU need a setting for."""
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def embedding(dtype: torch.dtype = torch.float32, device: str = 'cpu') -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1, 12, 5, generator=generator)
    return values.to(device, dtype).requires_grad_()


def resized(given: torch.Tensor, offset: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """What is resized, and the gradient of a sum of it."""
    out = resize_position_embedding(given, OLD, NEW, offset)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((out * weights.to(out)).sum(), given)
    return out.detach(), gradient


@pytest.mark.parametrize('offset', [0.0, 0.1])
def test_deterministic_mode_resizes_alike(deterministic, offset):
    found = resized(embedding(torch.float64), offset)
    torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found, resized(embedding(torch.float64), offset))


def test_deterministic_mode_keeps_float32_under_autocast(deterministic):
    expected = resize_position_embedding(embedding(), OLD, NEW)
    with torch.autocast('cpu', torch.bfloat16):
        found = resize_position_embedding(embedding(), OLD, NEW)
    assert torch.equal(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize('offset', [0.0, 0.1])
def test_deterministic_mode_has_a_gradient_on_a_gpu(deterministic, offset):
    one, other = (torch.cat(resized(embedding(device='cuda'), offset), dim=1) for _ in range(2))
    assert torch.equal(one, other)


def test_prediction_is_interpolated_in_any_mode(deterministic):
    with torch.no_grad():
        found = resize_position_embedding(embedding(), OLD, NEW)
        torch.use_deterministic_algorithms(False)
        assert torch.equal(found, resize_position_embedding(embedding(), OLD, NEW))
