from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from pgseg_mm.text.tokenizer import tokenize

from ..layers import QuickGELU, TransformerBlock, TransformerBlocks


class TextFeatures(NamedTuple):
    """What a text encoder makes of (B, L) token ids."""

    eot: Tensor
    """(B, C), feature at the end token, before any projector of this project."""
    tokens: Tensor
    """(B, L, C'), features of all tokens after the last layer norm; C' is ``token_dims``."""
    mask: Tensor
    """(B, L), True for start, words and end, False for padding."""


@MODELS.register_module()
class PGSegTextTransformer(BaseModule):
    """CLIP's causal text transformer in the published size (docs/method.md, 2).

    Args:
        vocab_size: Number of token ids; the end token has the largest id of a row.
        context_length: Largest number of tokens.
        embed_dims: Channels C.
        num_layers: Number of transformer blocks.
        num_heads: Attention heads; C / 64 by default.
        with_cp: Whether to recompute activations in the backward pass to save memory.
        init_cfg: Config of mmengine's weight initialisation, e.g. of type ``'Pretrained'``.

    Raises:
        ValueError: If ``num_heads`` does not divide ``embed_dims``.
    """

    def __init__(
        self,
        vocab_size: int = 49408,
        context_length: int = 77,
        embed_dims: int = 256,
        num_layers: int = 12,
        num_heads: int | None = None,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.context_length = context_length
        self.embed_dims = self.token_dims = embed_dims
        self.token_embedding = nn.Embedding(vocab_size, embed_dims)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, embed_dims))
        heads = max(embed_dims // 64, 1) if num_heads is None else num_heads
        self.blocks = TransformerBlocks(
            *(
                TransformerBlock(embed_dims, heads, act=QuickGELU, is_causal=True)
                for _ in range(num_layers)
            ),
            with_cp=with_cp,
        )
        self.norm = nn.LayerNorm(embed_dims)
        self._reset_parameters(num_layers)

    def _reset_parameters(self, num_layers: int) -> None:
        """Initialise as CLIP does (docs/method.md, 2)."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        width_std = self.embed_dims**-0.5
        output_std = width_std * (2 * num_layers) ** -0.5
        for block in self.blocks:
            assert isinstance(block, TransformerBlock)
            for linear, std in (
                (block.attn.qkv, width_std),
                (block.attn.proj, output_std),
                (block.mlp.fc1, (2 * self.embed_dims) ** -0.5),
                (block.mlp.fc2, output_std),
            ):
                nn.init.normal_(linear.weight, std=std)
                nn.init.zeros_(linear.bias)

    def tokenize(self, texts: str | list[str]) -> Tensor:
        """Turn T texts into (T, context_length) of CLIP's token ids."""
        return tokenize(texts, self.context_length)

    def forward(self, token_ids: Tensor) -> TextFeatures:
        """Encode texts.

        Args:
            token_ids: (B, L) start, words and end token, then zeros.

        Returns:
            End-token and per-token features with the padding mask.

        Raises:
            ValueError: If L exceeds ``context_length``.
        """
        length = token_ids.shape[1]
        if length > self.context_length:
            raise ValueError(
                f'texts of {length} tokens exceed context_length={self.context_length}; tokenise '
                'them with the same context_length'
            )
        x = self.token_embedding(token_ids) + self.positional_embedding[:length]
        x = self.norm(self.blocks(x))
        end = token_ids.argmax(dim=1, keepdim=True)
        mask = torch.arange(length, device=end.device) <= end
        eot = x.take_along_dim(end[..., None], dim=1).squeeze(1)
        return TextFeatures(eot, x, mask)
