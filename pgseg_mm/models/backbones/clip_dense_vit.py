from typing import Any

from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import PATCH_ATTENTIONS, gaussian_neighbourhood
from .open_clip_vit import OpenCLIPViT

POS_EMBED_OFFSETS = {'size': 0.0, 'offset': 0.1}
"""Of the ways to resize position embeddings, what is added to the new grid's sides."""


@MODELS.register_module()
class CLIPDenseViT(OpenCLIPViT):
    """Image tower of an open_clip ViT that gives each patch an embedding, without any training.

    The last block lets patches look at each other in another way than it was trained to
    (docs/clip.md); final layer norm and projection follow as ever, so patches lie in the space
    that open_clip's images and texts share.

    Args:
        model_name: Name of an open_clip model whose image tower is a ViT with a class token, such
            as ``ViT-B-16-quickgelu``; see :class:`OpenCLIPTextEncoder`.
        pretrained: Weights of the tower: one of open_clip's tags for the model, ``hf-hub:`` name of
            an open_clip model, or a file with the state dict of the whole model or of its image
            tower. ``None`` initialises at random.
        attention: How patches look at each other, by the name of the method:

            - ``'clip'``: query and key, as trained;
            - ``'maskclip'``: not at all, each keeps its own value;
            - ``'sclip'``: query and query, added to key and key;
            - ``'clearclip'``: query and query;
            - ``'naclip'``: key and key, neighbours preferred by a Gaussian;
            - ``'kk'``: key and key; ``'gaussian'``: neighbours alone, whatever they show.

            :data:`PATCH_ATTENTIONS` has them, and takes others.
        residual: Whether the last block keeps its residual and its MLP, or gives its projected
            attention alone; by default as the method does, which is to keep them for ``'clip'``,
            ``'maskclip'`` and ``'sclip'``.
        gaussian_std: Standard deviation, in patches, of a Gaussian that is added to the logits of
            neighbours; by default the method's own, 5 for ``'naclip'`` and ``'gaussian'`` and none
            for the others.
        attention_layers: Number of blocks, counted from the last, that attend so. Those before the
            last keep residual and MLP in any case.
        pos_embed: How position embeddings are resized for another grid than that of the training:
            ``'size'`` by the ratio of the grids, ``'offset'`` with 0.1 added to the new one, as the
            code published with SCLIP, ClearCLIP and NACLIP does.
        refine: Config of a module that is applied to the maps, such as
            ``dict(type='PrototypeRefinement')``; ``None`` for none.
        trainable_layers: Number of transformer blocks of the tower, counted from the last, to train
            together with its final layer norm and projection, under a head that is trained;
            ``None`` trains the whole tower, 0 freezes it.
        init_cfg: Config of mmengine's weight initialisation.

    Raises:
        ValueError: If the model, ``attention`` or ``pos_embed`` is unknown, the image tower of
            another kind, ``gaussian_std`` not positive or without logits to be added to, or a
            number of layers not one of the tower's.
    """

    def __init__(
        self,
        model_name: str = 'ViT-B-16',
        pretrained: str | None = None,
        attention: str = 'clip',
        residual: bool | None = None,
        gaussian_std: float | None = None,
        attention_layers: int = 1,
        pos_embed: str = 'size',
        refine: dict | None = None,
        trainable_layers: int | None = 0,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        _check_name('attention', attention, PATCH_ATTENTIONS)
        _check_name('pos_embed', pos_embed, POS_EMBED_OFFSETS)
        method = PATCH_ATTENTIONS[attention]
        if gaussian_std is not None and not method.takes_neighbourhood:
            raise ValueError(
                f'attention={attention!r} compares no patches, so there is nothing that a Gaussian '
                f'could be added to; set gaussian_std=None, got {gaussian_std}'
            )
        if gaussian_std is not None and not gaussian_std > 0:
            raise ValueError(f'gaussian_std must be None or positive, got {gaussian_std}')
        super().__init__(model_name, pretrained, init_cfg)
        if not 1 <= attention_layers <= len(self.blocks):
            raise ValueError(
                f'attention_layers must be from 1 to {len(self.blocks)}, the number of blocks of '
                f'{self.model_name}, got {attention_layers}'
            )
        self.attention = attention
        self.mix = method.mix
        self.keeps_residual = method.residual if residual is None else residual
        self.gaussian_std = method.gaussian_std if gaussian_std is None else gaussian_std
        self.attention_layers = attention_layers
        self.pos_embed_offset = POS_EMBED_OFFSETS[pos_embed]
        self.refine: nn.Module | None = None if refine is None else MODELS.build(refine)
        self.train_last(trainable_layers, len(self.blocks))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Encode images.

        Args:
            images: (B, 3, H, W), normalised as open_clip does. Rows and columns beyond the last
                whole patch are not seen.

        Returns:
            One map (B, ``embed_dims``, H // patch_size, W // patch_size), of any length: a head
            that compares it with texts has to normalise it.

        Raises:
            ValueError: If an image has no room for a patch.
        """
        x, grid_size = self.embed_patches(images)
        first = len(self.blocks) - self.attention_layers
        for block in self.blocks[:first]:
            x = block(x)
        neighbourhood = None
        if self.gaussian_std is not None:
            neighbourhood = gaussian_neighbourhood(grid_size, self.gaussian_std, like=x)
        for block in self.blocks[first:-1]:
            x = self._run(block, x, neighbourhood, residual=True)
        x = self._run(self.blocks[-1], x, neighbourhood, self.keeps_residual)
        return (self.project(x[:, 1:], grid_size),)

    def project(self, patches: Tensor, grid_size: tuple[int, int]) -> Tensor:
        """Take patches into the space of images and texts.

        Args:
            patches: (B, N, C) behind the last block.
            grid_size: Their grid (h, w) with h * w = N.

        Returns:
            (B, ``embed_dims``, h, w), refined if there is a refinement.
        """
        x = self.tower.ln_post(patches) @ self.tower.proj
        features = x.transpose(1, 2).unflatten(2, grid_size)
        return features if self.refine is None else self.refine(features)

    def _run(self, block: Any, x: Tensor, neighbourhood: Tensor | None, residual: bool) -> Tensor:
        """(B, 1 + N, C) tokens behind a block that attends by this backbone's method."""
        attention = block.attn
        projected = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = projected.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if neighbourhood is not None:
            neighbourhood = neighbourhood.to(q.dtype)
        mixed = self.mix(q, k, v, neighbourhood).transpose(1, 2).flatten(2)
        seen = block.ls_1(attention.out_proj(mixed))
        if not residual:
            return seen
        x = x + seen
        return x + block.ls_2(block.mlp(block.ln_2(x)))


def _check_name(argument: str, name: str, known: dict) -> None:
    if name not in known:
        raise ValueError(f'{argument} must be one of {", ".join(known)}, got {name!r}')
