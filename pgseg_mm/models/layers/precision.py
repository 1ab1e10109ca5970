import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """A floating-point tensor of any shape, half precision as float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
