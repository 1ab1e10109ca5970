import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import CrossAttention, SelfAttention
from .mlp import MLP


class Residual(nn.Module):
    """Adds a branch to what it branched off from; drops it for whole samples in training.

    It draws the numbers that mmcv's ``DropPath`` draws, and makes one pass over the tokens.

    Args:
        drop_prob: Probability of dropping the branch of a sample.
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """Add (B, ...) tensors."""
        if not self.training or not self.drop_prob:
            return x + branch
        keep = 1 - self.drop_prob
        kept = keep + torch.rand((len(x),) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device)
        return torch.addcmul(x, branch, kept.floor_() / keep)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP, each with a residual connection.

    Args:
        embed_dims: Channels C.
        num_heads: Number of attention heads.
        mlp_ratio: Hidden width of the MLP over C.
        act: Activation class of the MLP.
        is_causal: Whether tokens see only earlier ones.
        drop_rate: Dropout probability of both branches.
        drop_path_rate: Probability of dropping a branch for a whole sample.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        act: type[nn.Module] = nn.GELU,
        is_causal: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.is_causal = is_causal
        self.norm1 = nn.LayerNorm(embed_dims)
        self.attn = SelfAttention(embed_dims, num_heads, drop_rate)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.mlp = MLP(embed_dims, int(embed_dims * mlp_ratio), act=act, drop_rate=drop_rate)
        self.residual = Residual(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, C) to (B, N, C)."""
        x = self.residual(x, self.attn(self.norm1(x), self.is_causal))
        return self.residual(x, self.mlp(self.norm2(x)))


class TransformerBlocks(nn.Sequential):
    """Transformer blocks, one after the other: a part that ``torch.compile`` takes as a whole.

    Args:
        blocks: The blocks.
        with_cp: Whether to recompute activations in the backward pass to save memory.
    """

    def __init__(self, *blocks: TransformerBlock, with_cp: bool = False) -> None:
        super().__init__(*blocks)
        self.with_cp = with_cp

    @property
    def is_causal(self) -> bool:
        """Whether tokens see only earlier ones."""
        return any(block.is_causal for block in self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, C) to (B, N, C)."""
        for block in self:
            if self.with_cp and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


class CrossAttentionBlock(nn.Module):
    """Cross-attention without pre-norm, pre-norm MLP, layer norm (docs/method.md, 1.4).

    Args:
        embed_dims: Channels C.
        num_heads: Number of attention heads.
        mlp_ratio: Hidden width of the MLP over C.
    """

    def __init__(self, embed_dims: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.attn = CrossAttention(embed_dims, num_heads)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.mlp = MLP(embed_dims, int(embed_dims * mlp_ratio))
        self.norm_post = nn.LayerNorm(embed_dims)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """Let (B, G, C) queries read (B, N, C) tokens; returns (B, G, C)."""
        query = query + self.attn(query, tokens)
        return self.norm_post(query + self.mlp(self.norm2(query)))
