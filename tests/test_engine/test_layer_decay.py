"""Rates that decay from layer to layer of the backbone of any segmentor."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmpretrain.models import VisionTransformer
from torch import nn

from model_zoo import tiny_model

WRAPPER = ConfigDict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2.0, weight_decay=0.1),
    constructor='BackboneLayerDecay',
    paramwise_cfg=dict(layer_decay_rate=0.5, norm_decay_mult=0.0),
)


class Segmentor(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.decode_head = nn.Linear(4, 2)


def groups_of(model: nn.Module) -> dict[str, dict]:
    groups = build_optim_wrapper(model, WRAPPER).optimizer.param_groups
    return {group['param_name']: group for group in groups}


def test_rates_of_a_pgseg():
    model = tiny_model()
    groups = groups_of(model)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert groups.keys() == trained
    rates = {name: group['lr'] for name, group in groups.items()}
    assert rates['backbone.pos_embed'] == 2 * 0.5**4
    assert [rates[f'backbone.stages.{i}.blocks.0.mlp.fc1.weight'] for i in range(3)] == [
        2 * 0.5**3,
        2 * 0.5**2,
        2 * 0.5,
    ]
    assert rates['backbone.norm.weight'] == 2
    assert {rate for name, rate in rates.items() if not name.startswith('backbone.')} == {2}
    assert groups['backbone.norm.weight']['weight_decay'] == 0
    assert groups['backbone.patch_embed.weight']['weight_decay'] == 0.1


def test_a_backbone_of_mmpretrain():
    arch = dict(embed_dims=4, num_layers=2, num_heads=2, feedforward_channels=8)
    backbone = VisionTransformer(arch, img_size=32, patch_size=16, out_type='featmap')
    groups = groups_of(Segmentor(backbone))
    assert groups['backbone.patch_embed.projection.weight']['lr'] == 2 * 0.5**3
    assert groups['backbone.layers.1.attn.qkv.weight']['lr'] == 2 * 0.5
    assert groups['decode_head.weight']['lr'] == 2


def test_a_model_in_the_wrapper_of_a_distributed_job(tmp_path):
    model = tiny_model()
    store = f'file://{tmp_path}/store'
    torch.distributed.init_process_group('gloo', store, rank=0, world_size=1)
    try:
        assert groups_of(MMDistributedDataParallel(model)).keys() == groups_of(model).keys()
    finally:
        torch.distributed.destroy_process_group()


def test_refuses_a_backbone_without_depths():
    with pytest.raises(TypeError, match='Segmentor has a backbone of type Conv2d'):
        groups_of(Segmentor(nn.Conv2d(3, 4, 1)))
    with pytest.raises(TypeError, match='Linear has a backbone of type NoneType'):
        groups_of(nn.Linear(2, 2))
