"""Training on a GPU that is not there: no tensor of another device, and no waiting for a value.

torch's fake tensors have a device and a shape but no values. An operation on tensors of several
devices fails, and so does reading a value, for which a program would wait for the GPU.
"""

from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.ablation_cells import Cell, World
from benchmarks.ablation_rows import ROWS
from pgseg_mm.models.batch_augments import PasteImages, RandomBatchAugment
from pgseg_mm.models.losses import npr_loss

GPU = torch.device('cuda', 0)


class NoHostCopies(TorchDispatchMode):
    """Refuses copies of pageable host memory, which wait for all that the GPU has yet to do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        target = args[0].device if args and isinstance(args[0], torch.Tensor) else None
        if func is torch.ops.aten._to_copy.default:
            pinned = kwargs.get('non_blocking')  # of copy_to_device
            copied = target.type == 'cpu' and kwargs.get('device', target) == GPU and not pinned
        elif func in (torch.ops.aten.copy_.default, torch.ops.aten.index_put_.default):
            values = args[1] if func is torch.ops.aten.copy_.default else args[2]
            copied = target == GPU and values.device.type == 'cpu'
        else:
            copied = False
        if copied:
            raise HostCopyError(f'{func} copies from the host')
        return func(*args, **kwargs)


class HostCopyError(Exception):
    pass


class FakeMatch:
    """Stands in for the match that other threads work out from values."""

    def __init__(self, similarity, maximize=True):
        assert similarity.device == GPU
        batch, groups, _ = similarity.shape
        self.match = torch.arange(groups, device=GPU).expand(batch, groups)

    def result(self):
        return self.match


@pytest.fixture(autouse=True)
def what_needs_values(monkeypatch):
    """What is drawn or worked out on the CPU is fixed."""
    monkeypatch.setattr(npr_loss, 'start_matching', FakeMatch)
    monkeypatch.setattr(PasteImages, '_draw', lambda self, *args: (self.sizes[0], 1, 1, 1))
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda self: self)


def build(row: str) -> nn.Module:
    """A row of the ablation, with two grouping stages."""
    cfg = Cell(row, World.of(20), stages=2).make_config(Path('data'), Path('work_dir')).model
    cfg.data_preprocessor.trim_text = False  # reads captions in host memory
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(cfg).train()


def move(model: nn.Module) -> None:
    """Parameters and buffers of fake tensors; :meth:`torch.nn.Module.to` cannot make them."""
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None:
                new = nn.Parameter(torch.empty(old.shape, dtype=old.dtype, device=GPU))
                module._parameters[name] = new
        for name, old in module._buffers.items():
            if old is not None:
                module._buffers[name] = torch.empty(old.shape, dtype=old.dtype, device=GPU)
    model.data_preprocessor._device = GPU  # where it moves a batch to


def train(model: nn.Module) -> list[torch.Tensor]:
    """Losses of a step."""
    length = model.text_encoder.context_length
    texts = (8, 4, length) if model.decode_head.loss_multi_label else (8, length)
    batch = {
        'inputs': torch.ones(8, 3, 64, 64, dtype=torch.uint8, device=GPU),
        'tokens': torch.ones(texts, dtype=torch.long, device=GPU),
    }
    losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    return [loss for name, loss in losses.items() if 'loss' in name]


@pytest.mark.parametrize('row', ROWS)
def test_a_training_step_is_on_one_device_and_waits_for_no_value(row, monkeypatch):
    model = build(row)
    joined = model.data_preprocessor.batch_augments
    with FakeTensorMode(), NoHostCopies():
        move(model)
        for index in range(len(joined.augments) if joined else 1):
            monkeypatch.setattr(
                RandomBatchAugment, 'forward', lambda self, x, i=index: self.augments[i](x, None)
            )
            losses = train(model)
            assert losses and all(loss.device == GPU and loss.ndim == 0 for loss in losses)


def with_a_number(groups: torch.Tensor) -> torch.Tensor:
    groups = groups.clone()
    groups[torch.arange(len(groups), device=GPU)] = 1.0
    return groups


@pytest.mark.parametrize(
    'fault, error',
    [
        (lambda groups: groups + torch.zeros(groups.shape[-1]), FakeTensorDeviceMismatchError),
        (lambda groups: groups * groups.detach().sum().item(), DataDependentOutputException),
        (lambda groups: groups[groups > 0], DynamicOutputShapeException),
        (lambda groups: groups + torch.ones(1).to(GPU), HostCopyError),
        (with_a_number, HostCopyError),
    ],
    ids=['device', 'value', 'shape', 'copy', 'number'],
)
def test_faults_are_found(fault, error):
    model = build('pgseg')
    model.decode_head.image_projector.register_forward_pre_hook(
        lambda module, inputs: (fault(inputs[0]),)
    )
    with FakeTensorMode(), NoHostCopies():
        move(model)
        with pytest.raises(error):
            train(model)
