from torch import Tensor, nn

from .sync_batch_norm import SyncBatchNorm


class ProjectionMLP(nn.Module):
    """Linear, batch norm over the rows of all ranks, ReLU, linear (docs/method.md, 1.3, 1.5, 2).

    A linear layer over the channels is the published 1 x 1 convolution, with the same default
    initialisation.

    Args:
        in_channels: Width of the input.
        out_channels: Width of the output.
        hidden_channels: Width between the two, 4096 in the published models whatever their size.
    """

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int = 4096) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels, hidden_channels)
        self.norm = SyncBatchNorm(hidden_channels)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Linear(hidden_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_channels) to (..., out_channels)."""
        hidden = self.act(self.norm(self.fc1(x.flatten(0, -2))))
        return self.fc2(hidden).unflatten(0, x.shape[:-1])
