from contextlib import nullcontext
from typing import Any

import torch
from mmseg.registry import MODELS
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..layers import GroupFeatures, hard_assignment
from .open_clip_vit import OpenCLIPViT

SMALLEST_SHARE = 1e-6
"""Of a patch in a group, so that the logarithm and its gradient are finite."""


@MODELS.register_module()
class OpenCLIPGroupViT(OpenCLIPViT):
    """Image tower of an open_clip ViT that describes groups of patches instead of the whole image.

    A grouping assigns the patch tokens that enter the last block to groups. In that block the class
    token looks at one group at a time: its attention to a patch is multiplied by the patch's share
    in the group, that to itself by the group's share of all patches. Final layer norm and
    projection follow as ever, so group tokens lie in the space that open_clip's images and texts
    share, and a group of all patches has open_clip's own embedding of the image.

    The head is a :class:`PGSegHead` with ``hidden_channels=None``.

    Args:
        model_name: Name of an open_clip model whose image tower is a ViT with a class token, such
            as ``ViT-B-16``; see :class:`OpenCLIPTextEncoder`.
        pretrained: Weights of the tower: one of open_clip's tags for the model, or a file with the
            state dict of the whole model or of its image tower. ``None`` initialises at random.
        grouping: Config of a :class:`LearnedGrouping`, or of a :class:`ClusterGrouping`, which
            needs no training.
        trainable_layers: Number of transformer blocks of the tower, counted from the last, to train
            together with its final layer norm and projection; ``None`` trains the whole tower, 0
            freezes it. The grouping is trained in any case.
        init_cfg: Config of mmengine's weight initialisation.

    Attributes:
        embed_dims: Channels of the group tokens, which is the model's joint space with texts.
        token_dims: Channels C of the patch tokens.

    Raises:
        ValueError: If the model is unknown or its image tower of another kind, the weights do not
            fit, or ``trainable_layers`` is not a number of its blocks.
    """

    grouping: Any

    def __init__(
        self,
        model_name: str = 'ViT-B-16',
        pretrained: str | None = None,
        grouping: dict = dict(type='LearnedGrouping'),  # noqa: B006, C408
        trainable_layers: int | None = 0,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(model_name, pretrained, init_cfg)
        self.grouping = MODELS.build(
            {'type': 'LearnedGrouping', 'embed_dims': self.token_dims, **grouping}
        )
        self.residual: nn.Module | None = None
        if self.grouping.with_tokens:
            projection = nn.Linear(self.token_dims, self.embed_dims)
            nn.init.zeros_(projection.weight)  # training starts where open_clip is
            nn.init.zeros_(projection.bias)
            self.residual = nn.Sequential(nn.LayerNorm(self.token_dims), projection)
        self.train_last(trainable_layers, len(self.blocks))

    def forward(self, images: Tensor) -> GroupFeatures:
        """Encode images.

        Args:
            images: (B, 3, H, W), normalised as open_clip does.

        Returns:
            Groups, with tokens (B, G, ``embed_dims``).

        Raises:
            ValueError: If an image has no room for a patch.
        """
        x, grid_size = self.embed_patches(images)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        groups = self.grouping(x[:, 1:], grid_size)
        tokens = self._describe(last, x, _shares(groups))
        if self.residual is not None:
            tokens = tokens + self.residual(groups.tokens)
        prototypes = () if groups.prototypes is None else (groups.prototypes,)
        return GroupFeatures(tokens, (groups.assignment,), (groups.centres,), prototypes, grid_size)

    def _describe(self, block: ResidualAttentionBlock, x: Tensor, shares: Tensor) -> Tensor:
        """Embedding of each group, (B, G, embed_dims), by the class token in the last block."""
        tower = self.tower
        mask = (shares + SMALLEST_SHARE).log().repeat_interleave(block.attn.num_heads, dim=0)
        tokens = block.ln_1(x)
        num_groups = shares.shape[1]
        query = tokens[:, :1].expand(-1, num_groups, -1)
        # on GPUs fused attention lacks a gradient of the mask: cuDNN's refuses it, and torch's
        # fails before 2.14 where query, key and value need none (pytorch/pytorch#148476)
        with sdpa_kernel(SDPBackend.MATH) if mask.requires_grad else nullcontext():
            seen = block.attention(query, tokens, tokens, attn_mask=mask)
        first = x[:, :1] + block.ls_1(seen)
        first = first + block.ls_2(block.mlp(block.ln_2(first)))
        return tower.ln_post(first) @ tower.proj


def _shares(groups: Any) -> Tensor:
    """What each group sees of class token and patches, (B, G, 1 + N), by the output of a grouping:
    what it has pooled, or, where it pools nothing, the patches that are its own.
    """
    if groups.pooling is None:
        patches = hard_assignment(groups.assignment.float().clamp(min=1e-30).log(), noise=False)
    else:
        patches = groups.pooling.float()
    return torch.cat([patches.mean(dim=2, keepdim=True), patches], dim=2)
