import torch
from torch import Tensor


def copy_to_device(values: Tensor, device: torch.device) -> Tensor:
    """Values of host memory on a device, without waiting for what a GPU has yet to do.

    A copy of ordinary (pageable) host memory waits for all of it.
    """
    if device.type == 'cuda':
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
