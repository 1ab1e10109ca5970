import torch.nn.functional as F
from torch import Tensor, nn


class QuickGELU(nn.Module):
    """CLIP's approximation x * sigmoid(1.702 x) of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to a tensor of any shape."""
        # one kernel in either direction, and one tensor kept for the backward pass
        return F.silu(1.702 * x) * (1 / 1.702)


class MLP(nn.Module):
    """Linear, activation, linear over the last axis.

    Args:
        in_features: Width of the input.
        hidden_features: Width between the two layers.
        out_features: Width of the output; the input's by default.
        act: Activation class.
        drop_rate: Dropout probability after either layer.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int | None = None,
        act: type[nn.Module] = nn.GELU,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = act()
        self.fc2 = nn.Linear(hidden_features, out_features or in_features)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class TokenMLP(MLP):
    """An :class:`MLP` over the token axis: (B, N_in, C) to (B, N_out, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, each channel by itself."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)
