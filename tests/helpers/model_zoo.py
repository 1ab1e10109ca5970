"""Small models that the tests share."""

import torch
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

from pgseg_mm.models import PGSeg


def tiny_model_cfg(**kwargs) -> dict:
    """Config of a PGSeg for 32 x 32 px images, with all its parts."""
    return {
        'type': 'PGSeg',
        'data_preprocessor': {
            'type': 'PGSegDataPreProcessor',
            'mean': [123.675, 116.28, 103.53],
            'std': [58.395, 57.12, 57.375],
        },
        'backbone': {
            'type': 'PGSegViT',
            'img_size': 32,
            'patch_size': 8,
            'embed_dims': 24,
            'depths': (1, 1, 1),
            'num_heads': 3,
            'num_group_tokens': (6, 3, 0),
            'num_output_groups': (6, 3),
            'prototypes': {'hidden_channels': 16},
            'out_type': 'groups',
        },
        'text_encoder': {
            'type': 'PGSegTextTransformer',
            'embed_dims': 64,
            'num_layers': 1,
            'context_length': 16,
        },
        'decode_head': {
            'type': 'PGSegHead',
            'in_channels': 24,
            'channels': 20,
            'text_channels': 64,
            'hidden_channels': 32,
            'loss_npr': {'type': 'NPRLoss'},
        },
        **kwargs,
    }


def tiny_model(**kwargs) -> PGSeg:
    """A built :func:`tiny_model_cfg` in evaluation mode, the same at every call."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):  # fixtures of a module come before it
        return MODELS.build(tiny_model_cfg(**kwargs)).eval()


def lively_model(**kwargs) -> PGSeg:
    """:func:`tiny_model` with weights so large that several groups and classes win pixels."""
    model = tiny_model(**kwargs)
    for part in (model.backbone, model.decode_head.image_projector):
        for parameter in part.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    return model
