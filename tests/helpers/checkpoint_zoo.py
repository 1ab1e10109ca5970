"""Small made-up checkpoints of other code bases that the tests share."""

from dataclasses import replace

import numpy as np
import torch

import parity_rules
from pgseg_mm.checkpoints import Architecture, release_shapes
from pgseg_mm.serialization.loading import load_file_safely
from pgseg_mm.serialization.runner_checkpoints import load_training_checkpoint

TWO_STAGES = Architecture(
    img_size=(32, 32),
    patch_size=8,
    embed_dims=(64, 64, 64),
    depths=(2, 1, 1),
    num_heads=(1, 1, 1),
    num_group_tokens=(6, 3, 0),
    num_output_groups=(6, 3),
    prototype_channels=48,
    vocab_size=60,
    context_length=12,
    text_dims=64,
    text_layers=2,
    text_heads=1,
    output_dims=20,
    hidden_channels=48,
)
ONE_STAGE = replace(
    TWO_STAGES,
    embed_dims=(64, 64),
    depths=(1, 2),
    num_heads=(1, 1),
    num_group_tokens=(5, 0),
    num_output_groups=(4,),
)
THREE_STAGES = replace(
    TWO_STAGES,
    depths=(1, 1, 1, 1),
    embed_dims=(64, 128, 128, 192),
    num_heads=(1, 2, 2, 3),
    num_group_tokens=(8, 6, 4, 0),
    num_output_groups=(7, 5, 3),
    mlp_ratio=2.0,
    in_channels=1,
)
GROUPVIT = replace(TWO_STAGES, prototypes=False, prototype_channels=48)
ARCHITECTURES = {
    'two stages': TWO_STAGES,
    'one stage': ONE_STAGE,
    'three stages, widths': THREE_STAGES,
    'GroupViT': GROUPVIT,
}


def release_state(architecture: Architecture, seed: int = 3) -> dict[str, torch.Tensor]:
    """Weights as the release would save them, in float32."""
    state = {}
    for name, shape in release_shapes(architecture).items():
        value = torch.from_numpy(np.asarray(parity_rules.weight(name, shape, seed)))
        state[name] = value.float() if value.is_floating_point() else value
    return state


LOADERS = {'training': load_training_checkpoint, 'any': load_file_safely}
"""Functions that read checkpoints of others."""
