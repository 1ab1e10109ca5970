from typing import Any

import torch
from open_clip.model import _build_vision_tower
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from pgseg_mm.serialization.open_clip_weights import load_image_tower, pixel_statistics
from pgseg_mm.text.open_clip_models import find_open_clip_model

from ..layers import OpenCLIPTower, resize_position_embedding


class OpenCLIPViT(OpenCLIPTower):
    """Base of backbones on the image tower of an open_clip ViT, for images of any size.

    Args:
        model_name: Name of an open_clip model whose image tower is a ViT with a class token, such
            as ``ViT-B-16``; see :class:`OpenCLIPTextEncoder`.
        pretrained: Weights of the tower: one of open_clip's tags for the model, ``hf-hub:`` name of
            an open_clip model, or a file with the state dict of the whole model or of its image
            tower. ``None`` initialises at random.
        init_cfg: Config of mmengine's weight initialisation.

    Attributes:
        embed_dims: Channels of the model's joint space with texts.
        token_dims: Channels C of the tokens.
        patch_size: Side of a patch in pixels.
        pixel_statistics: Mean and deviation (R, G, B, 0 to 255) of the pixels that the weights were
            trained on; ``None`` where that is not known.

    Raises:
        ValueError: If the model is unknown or its image tower of another kind, or the weights do
            not fit.
    """

    tower: Any  # open_clip's VisionTransformer
    behind_blocks = ('ln_post', 'proj')
    pos_embed_offset = 0.0
    """See :func:`resize_position_embedding`."""

    def __init__(
        self,
        model_name: str,
        pretrained: str | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.model_name, config = find_open_clip_model(model_name)
        quick_gelu = config.get('quick_gelu', False)
        self.tower = _build_tower(self.model_name, config, quick_gelu)
        self.pixel_statistics = None
        if pretrained is not None:
            load_image_tower(self.tower, self.model_name, str(pretrained), quick_gelu)
            self.pixel_statistics = pixel_statistics(self.model_name, str(pretrained))
        self.embed_dims = config['embed_dim']
        self.token_dims = self.tower.conv1.out_channels
        self.patch_size = self.tower.conv1.kernel_size[0]

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches (h, w) of the images that the tower was trained on."""
        return self.tower.grid_size

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks of the tower."""
        return self.tower.transformer.resblocks

    def embed_patches(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """What enters the first block.

        Args:
            images: (B, 3, H, W), normalised as open_clip does. Rows and columns beyond the last
                whole patch are not seen.

        Returns:
            Class and patch tokens (B, 1 + N, C), and the patch grid (h, w) with h * w = N.

        Raises:
            ValueError: If an image has no room for a patch.
        """
        tower = self.tower
        if min(images.shape[2:]) < self.patch_size:
            raise ValueError(
                f'images must be at least one patch of {self.patch_size} pixels high and wide, '
                f'got {tuple(images.shape[2:])}; resize them'
            )
        x = tower.conv1(images)
        grid_size = (x.shape[2], x.shape[3])
        first = tower.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        x = torch.cat([first, x.flatten(2).transpose(1, 2)], dim=1)
        x = x + self.position_embedding(grid_size).to(x.dtype)
        return tower.ln_pre(x), grid_size  # all patches: their places are needed

    def position_embedding(self, grid_size: tuple[int, int]) -> Tensor:
        """Position embeddings (1, 1 + N, C) of the class token and of a patch grid (h, w)."""
        embedding = self.tower.positional_embedding[None]
        of_class, of_patches = embedding.split([1, embedding.shape[1] - 1], dim=1)
        of_patches = resize_position_embedding(
            of_patches, self.tower.grid_size, grid_size, self.pos_embed_offset
        )
        return torch.cat([of_class, of_patches], dim=1)


def _build_tower(model_name: str, config: dict[str, Any], quick_gelu: bool) -> nn.Module:
    vision_cfg = config['vision_cfg']
    fits = (
        not vision_cfg.get('timm_model_name')
        and isinstance(vision_cfg.get('layers', 12), int)
        and vision_cfg.get('pool_type', 'tok') == 'tok'
        and not vision_cfg.get('attentional_pool')
    )
    # private, but what open_clip's models build their image tower by; see OpenCLIPTextEncoder
    tower = _build_vision_tower(config['embed_dim'], vision_cfg, quick_gelu) if fits else None
    if tower is None or type(tower.transformer.resblocks[-1]) is not ResidualAttentionBlock:
        raise ValueError(
            f'the image tower of {model_name} is not a plain ViT that pools by its class token; '
            'choose a model such as ViT-B-16, ViT-L-14 or ViT-H-14'
        )
    return tower
