import torch.nn.functional as F
from torch import Tensor, nn


def _check_heads(embed_dims: int, num_heads: int) -> None:
    if num_heads < 1 or embed_dims % num_heads:
        raise ValueError(
            f'embed_dims must be divisible by num_heads, got embed_dims={embed_dims} and '
            f'num_heads={num_heads}'
        )


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused query, key and value projection.

    Args:
        embed_dims: Channels C.
        num_heads: Number of heads, a divisor of C.
        drop_rate: Dropout probability after the output projection.

    Raises:
        ValueError: If ``num_heads`` does not divide ``embed_dims``.
    """

    def __init__(self, embed_dims: int, num_heads: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        _check_heads(embed_dims, num_heads)
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, is_causal: bool = False) -> Tensor:
        """Let (B, N, C) tokens attend to each other, or only to earlier ones."""
        # unbound before the heads are moved: the gradients are then put together in one copy
        q, k, v = (
            part.transpose(1, 2)
            for part in self.qkv(x).unflatten(2, (3, self.num_heads, -1)).unbind(2)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
        return self.drop(self.proj(out.transpose(1, 2).flatten(2)))


class CrossAttention(nn.Module):
    """Multi-head attention of queries to another set of tokens, with separate projections.

    Args:
        embed_dims: Channels C.
        num_heads: Number of heads, a divisor of C.

    Raises:
        ValueError: If ``num_heads`` does not divide ``embed_dims``.
    """

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        _check_heads(embed_dims, num_heads)
        self.num_heads = num_heads
        self.q_proj = nn.Linear(embed_dims, embed_dims)
        self.k_proj = nn.Linear(embed_dims, embed_dims)
        self.v_proj = nn.Linear(embed_dims, embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """Let (B, G, C) queries attend to (B, N, C) tokens; returns (B, G, C)."""
        q, k, v = (
            projected.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(query), self.k_proj(tokens), self.v_proj(tokens))
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))
