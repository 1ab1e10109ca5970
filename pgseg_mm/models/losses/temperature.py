import math
import warnings

import torch
from torch import Tensor, nn


class LearnedTemperature(nn.Module):
    """A softmax temperature that is learned as the logarithm of its inverse.

    Args:
        init: Initial temperature.
        max_scale: Upper limit of the inverse temperature.

    Raises:
        ValueError: If either is not positive.
    """

    def __init__(self, init: float, max_scale: float = 100.0) -> None:
        super().__init__()
        if init <= 0 or max_scale <= 0:
            raise ValueError(
                f'temperature and max_scale must be positive, got {init} and {max_scale}'
            )
        if init * max_scale < 1 - 1e-6:
            warnings.warn(
                f'temperature {init} is below 1 / max_scale = {1 / max_scale:g}, which is used '
                'in its place and does not change; raise one of the two',
                stacklevel=3,
            )
        self.max_scale = max_scale
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / init)))

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, a scalar with gradient."""
        return self.logit_scale.exp().clamp(max=self.max_scale)

    @property
    def temperature(self) -> Tensor:
        """Temperature, a scalar without gradient, for the log."""
        return 1 / self.scale.detach()
