from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from .attention import CrossAttention, SelfAttention
from .mlp import MLP


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
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, C) to (B, N, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x), self.is_causal))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class CrossAttentionBlock(nn.Module):
    """Cross-attention without pre-norm, then a pre-norm MLP, then a layer norm (METHOD 1.4).

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
