import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float32


def proxy_attention(
    features: Tensor, beta: float = 1.2, gamma: float = 3.0, shared_mean: bool = False
) -> Tensor:
    """How places look at each other by the features of another backbone (docs/clip.md).

    Args:
        features: Maps (B, C, h, w), of any length.
        beta: Places less alike than this times the mean do not see each other.
        gamma: Factor of what is left, before the softmax.
        shared_mean: Whether the mean is that of all B maps, as the published code has it, and not
            of each for itself.

    Returns:
        (B, h * w, h * w), rows of which sum to 1; float32 at least. A place that is too unlike all,
        itself too, as in a picture of one colour, sees all.
    """
    x = F.normalize(at_least_float32(features).flatten(2).transpose(1, 2), dim=-1)
    with torch.autocast(x.device.type, enabled=False):  # a threshold decides who sees whom
        similarity = x @ x.transpose(1, 2)
    mean = similarity.mean(dim=(1, 2), keepdim=True)
    logits = gamma * (similarity - beta * (mean.mean() if shared_mean else mean))
    seen = logits >= 0
    seen |= ~seen.any(dim=-1, keepdim=True)
    return logits.masked_fill(~seen, float('-inf')).softmax(dim=-1)
