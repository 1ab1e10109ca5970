"""Running a module on a batch in pieces, in the memory of one piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_micro_batches(function: Callable[..., Any], size: int | None, *inputs: Tensor | None) -> Any:
    """Call a function on pieces of a batch and join what it returns.

    Activations are not kept: the backward pass calls the function once more on each piece, with the
    same random numbers, and hands it its share of the gradient. The loss may be over the whole
    batch, then.

    Args:
        function: Module or function of tensors.
        size: Samples of a piece; ``None`` is a plain call.
        inputs: (B, ...) each; ``None`` is passed on.

    Returns:
        What the function returns for the whole batch: tensors (B, ...), tuples of results, or what
        is the same for all pieces.
    """
    if size is None or len(inputs[0]) <= size:  # type: ignore[arg-type]
        return function(*inputs)
    starts = range(0, len(inputs[0]), size)  # type: ignore[arg-type]
    return _join(
        *(
            checkpoint(
                function,
                *(None if x is None else x[start : start + size] for x in inputs),
                use_reentrant=False,
            )
            for start in starts
        )
    )


def _join(*parts: Any) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if isinstance(first, tuple):
        joined = (_join(*fields) for fields in zip(*parts, strict=True))
        return type(first)(*joined) if hasattr(first, '_fields') else tuple(joined)
    return first
