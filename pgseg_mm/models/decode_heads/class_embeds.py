from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from pgseg_mm.serialization.loading import load_file_safely
from pgseg_mm.serialization.numpy_files import read_npy, read_npz


class ClassEmbeds(NamedTuple):
    """Embeddings of words and, where a class has several, the class of each."""

    embeds: Tensor
    """(W, D), float32."""
    class_index: list[int] | None = None
    """Foreground class of each word; ``None`` where each word is a class."""


def load_class_embeds(source: str | Path | Tensor | Sequence[Sequence[float]]) -> ClassEmbeds:
    """Class embeddings from a tensor, nested lists, or a file.

    ``tools/misc/embed_vocabulary.py`` writes such files.

    Args:
        source: (W, D) values; the path of a ``.npy``, ``.pt`` or ``.pth`` file that holds such an
            array or tensor alone; or that of an ``.npz`` file with ``embeds`` (W, D) and
            ``class_index`` (W,), for classes of several words.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is damaged.
        ValueError: If the file is of another type or the values are not a (W, D) matrix.
    """
    index = None
    if isinstance(source, (str, Path)):
        values, index = _read(Path(source))
    else:
        values = torch.as_tensor(source)
    if not isinstance(values, Tensor) or values.ndim != 2 or not len(values):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f'class embeddings must be a matrix (classes, channels), got {shape}')
    return ClassEmbeds(values.float(), index)


def _read(path: Path) -> tuple[object, list[int] | None]:
    if not path.is_file():
        raise FileNotFoundError(f'class embeddings {path} do not exist')
    if path.suffix == '.npy':
        return _numbers(read_npy(path), path), None
    if path.suffix in ('.pt', '.pth'):
        return load_file_safely(path).content, None
    if path.suffix != '.npz':
        raise ValueError(f'class embeddings must be a .npy, .npz, .pt or .pth file, got {path}')
    arrays = read_npz(path, ('embeds', 'class_index'))
    if len(arrays) < 2:
        raise ValueError(
            f'{path} must hold the arrays embeds and class_index, got {sorted(arrays) or "neither"}'
        )
    return _numbers(arrays['embeds'], path), arrays['class_index'].tolist()


def _numbers(array: NDArray[Any], path: Path) -> Tensor:
    try:
        return torch.from_numpy(array)
    except TypeError as error:  # text, or of another byte order
        raise ValueError(f'{path} has class embeddings of {array.dtype}, not of numbers') from error
