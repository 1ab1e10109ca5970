"""Class embeddings on disk, found by what they were made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pgseg_mm.serialization.loading import write_atomically
from pgseg_mm.serialization.locating import expanded

TENSOR = 'embeds'
CHECKSUM = 'sha256'
PLAIN = (bool, int, float, str)
MODE = 'training'
"""Attribute of modules that does not count: embeddings are made in evaluation mode."""


class EmbeddingCache:
    """A folder of embeddings, one ``.safetensors`` file for each key.

    Files are written aside and moved into place, so that processes may share the folder. It may be
    emptied at any time. A file that cannot be read is replaced; a folder that cannot be written to
    costs no more than the time to embed again.

    Args:
        folder: The folder, made when it is needed; ``~`` is the home directory.

    Raises:
        NotADirectoryError: There is a file in its place.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = expanded(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(
                f'class_embed_cache must be a folder, but {self.folder} is a file'
            )

    def path(self, key: str) -> Path:
        """File of a key."""
        return self.folder / f'{key}.safetensors'

    def load(self, key: str, shape: tuple[int, int]) -> Tensor | None:
        """Embeddings of a key, on the CPU, or ``None`` if there are none that are whole.

        Args:
            key: What :func:`hash_of` returned.
            shape: Number of words and width that the embeddings must have.
        """
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, 'pt') as file:
                checksum = (file.metadata() or {}).get(CHECKSUM)
                embeds = file.get_tensor(TENSOR)
        except (OSError, SafetensorError) as error:
            self._warn(f'{path} is damaged and will be replaced: {error}')
            return None
        if tuple(embeds.shape) != shape or checksum != hash_of([], [(TENSOR, embeds)]):
            self._warn(f'{path} is damaged and will be replaced: its content has changed')
            return None
        return embeds

    def save(self, key: str, embeds: Tensor) -> None:
        """Keep embeddings for the next time."""
        tensors = {TENSOR: embeds.detach().cpu().contiguous()}
        metadata = {CHECKSUM: hash_of([], tensors.items())}
        try:
            write_atomically(self.path(key), lambda path: save_file(tensors, path, metadata))
        except OSError as error:
            self._warn(f'class embeddings are not kept in {self.folder}: {error}')

    @staticmethod
    def _warn(message: str) -> None:
        print_log(message, logger='current', level=30)


def hash_of(settings: Any, tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of values and tensors.

    Args:
        settings: Anything that is JSON.
        tensors: Named tensors; names, types, shapes and all bytes count.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name, tensor in tensors:
        values = tensor.detach().cpu().contiguous()
        digest.update(json.dumps([name, str(values.dtype), *values.shape]).encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def describe_module(module: nn.Module) -> list[list[Any]]:
    """Types and plain attributes of a module and its parts, such as the number of heads.

    Together with the weights they say what the module computes.
    """
    return [
        [
            name,
            type(part).__module__,
            type(part).__qualname__,
            {
                key: value
                for key, value in sorted(vars(part).items())
                if isinstance(value, PLAIN) and key != MODE and not key.startswith('_')
            },
        ]
        for name, part in module.named_modules()
    ]
