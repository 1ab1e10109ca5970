from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor

from ..layers import proxy_attention
from .clip_dense_vit import CLIPDenseViT


@MODELS.register_module()
class ProxyCLIPViT(CLIPDenseViT):
    """Image tower of an open_clip ViT whose patches look at each other as another backbone says.

    `ProxyCLIP <https://arxiv.org/abs/2408.04883>`_. The last block's values are mixed by how alike
    the other backbone's features are (docs/clip.md), on its grid, which may be the finer one; there
    is neither residual nor MLP. Nothing is trained.

    Args:
        proxy: Config of the other backbone, such as a DINO ViT of mmpretrain. It gives a map (B, C,
            h, w), or several, of which the last one is taken. Weights of its ``init_cfg`` are
            loaded at once.
        model_name: Name of an open_clip model; see :class:`CLIPDenseViT`.
        pretrained: Weights of the tower; likewise.
        beta: Patches less alike than this times the mean do not see each other.
        gamma: Factor of what is left, before the softmax.
        shared_mean: Whether the mean is that of all windows of a batch, as in the published code,
            and not of each window.
        proxy_mean: Mean of pixels, R, G and B from 0 to 255, that the other backbone wants taken
            off, ``None`` for images normalised as for open_clip.
        proxy_std: Standard deviation of pixels, to be given with ``proxy_mean``.
        pos_embed: As :class:`CLIPDenseViT` has it.
        refine: As :class:`CLIPDenseViT` has it.
        init_cfg: Config of mmengine's weight initialisation.

    Raises:
        ValueError: As :class:`CLIPDenseViT`, or if one of ``proxy_mean`` and ``proxy_std`` is given
            without the other.
    """

    def __init__(
        self,
        proxy: dict,
        model_name: str = 'ViT-B-16',
        pretrained: str | None = None,
        beta: float = 1.2,
        gamma: float = 3.0,
        shared_mean: bool = False,
        proxy_mean: Sequence[float] | None = None,
        proxy_std: Sequence[float] | None = None,
        pos_embed: str = 'size',
        refine: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if (proxy_mean is None) != (proxy_std is None):
            raise ValueError('proxy_mean and proxy_std go together; give both, or neither')
        super().__init__(
            model_name,
            pretrained,
            attention='maskclip',
            residual=False,
            pos_embed=pos_embed,
            refine=refine,
            init_cfg=init_cfg,
        )
        self.attention = 'proxy'
        self.beta, self.gamma, self.shared_mean = beta, gamma, shared_mean
        self.proxy_mean, self.proxy_std = proxy_mean, proxy_std
        self.image_mean: Sequence[float] = [255 * value for value in OPENAI_DATASET_MEAN]
        self.image_std: Sequence[float] = [255 * value for value in OPENAI_DATASET_STD]
        self.proxy = MODELS.build(proxy)
        if getattr(self.proxy, 'init_cfg', None):
            self.proxy.init_weights()
        self.proxy.requires_grad_(False).eval()

    def set_image_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Tell by what images are normalised, if otherwise than for OpenAI's weights.

        Args:
            mean: Mean of pixels, R, G and B from 0 to 255, or one number for all.
            std: Their standard deviation.
        """
        self.image_mean, self.image_std = mean, std

    def train(self, mode: bool = True) -> 'ProxyCLIPViT':
        """Switch the mode; the other backbone stays in evaluation mode."""
        super().train(mode)
        self.proxy.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Encode images.

        Args:
            images: (B, 3, H, W), normalised as open_clip does. Both backbones have to see all of
                them: ``window_divisor`` of ``test_cfg`` pads windows to multiples of both patches.

        Returns:
            One map (B, ``embed_dims``, h, w), of any length, on the grid of the other backbone.

        Raises:
            ValueError: If an image has no room for a patch.
        """
        x, grid_size = self.embed_patches(images)
        for block in self.blocks[:-1]:
            x = block(x)
        weights = proxy_attention(
            features := self._proxy_features(images), self.beta, self.gamma, self.shared_mean
        )
        last: Any = self.blocks[-1]
        attention = last.attn
        of_values = slice(2 * x.shape[2], None)
        bias = None if attention.in_proj_bias is None else attention.in_proj_bias[of_values]
        values = F.linear(last.ln_1(x[:, 1:]), attention.in_proj_weight[of_values], bias)
        values = values.transpose(1, 2).unflatten(2, grid_size)
        values = F.interpolate(
            values, size=features.shape[2:], mode='bilinear', align_corners=False
        ).flatten(2)
        mixed = weights.to(values.dtype) @ values.transpose(1, 2)
        seen = last.ls_1(attention.out_proj(mixed))
        return (self.project(seen, (features.shape[2], features.shape[3])),)

    def _proxy_features(self, images: Tensor) -> Tensor:
        """(B, C, h, w), what the other backbone makes of the images."""
        if self.proxy_mean is not None:
            mean, std, new_mean, new_std = (
                torch.tensor(values, device=images.device, dtype=images.dtype)[:, None, None]
                for values in (
                    self.image_mean,
                    self.image_std,
                    self.proxy_mean,
                    self.proxy_std,
                )
            )
            images = (images * std + mean - new_mean) / new_std
        features = self.proxy(images)
        return features if isinstance(features, Tensor) else features[-1]
