from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def load_class_embeds(source: str | Path | Tensor | Sequence[Sequence[float]]) -> Tensor:
    """Class embeddings from a tensor, nested lists, or a ``.npy``, ``.pt`` or ``.pth`` file.

    Args:
        source: (K, D) values, or the path of a file that holds such an array or tensor alone.

    Returns:
        (K, D), float32.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another type or the values are not a (K, D) matrix.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f'class embeddings {path} do not exist')
        if path.suffix == '.npy':
            values = torch.from_numpy(np.load(path, allow_pickle=False))
        elif path.suffix in ('.pt', '.pth'):
            values = torch.load(path, map_location='cpu', weights_only=True)
        else:
            raise ValueError(f'class embeddings must be a .npy, .pt or .pth file, got {path}')
    else:
        values = torch.as_tensor(source)
    if not isinstance(values, Tensor) or values.ndim != 2 or not len(values):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f'class embeddings must be a matrix (classes, channels), got {shape}')
    return values.float()
