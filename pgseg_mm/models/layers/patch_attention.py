"""Ways in which the tokens of a ViT's last block look at each other, without any training."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Mix = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""From queries, keys, values (B, heads, 1 + N, d) and a neighbourhood (1 + N, 1 + N), or ``None``,
to mixed values (B, heads, 1 + N, d). The class token is first."""


class PatchAttention(NamedTuple):
    """A way of attending, and how it is used unless somebody says otherwise."""

    mix: Mix
    residual: bool
    """Whether the block keeps its residual and its MLP."""
    gaussian_std: float | None = None
    """Width of the neighbourhood in patches; ``None`` for none."""
    takes_neighbourhood: bool = True
    """Whether there are logits that a neighbourhood can be added to."""


def gaussian_neighbourhood(grid_size: tuple[int, int], std: float, like: Tensor) -> Tensor:
    """What is added to the logits of patches that lie near each other (docs/clip.md).

    Args:
        grid_size: The patch grid (h, w).
        std: Standard deviation in patches.
        like: A tensor of the device and data type to make.

    Returns:
        (1 + h * w, 1 + h * w), at most 1; 0 for the class token, which is first.
    """

    def falloff(length: int) -> Tensor:
        place = torch.arange(length, device=like.device)
        distance = (place[:, None] - place).to(like.dtype)
        return (-distance.square() / (2 * std**2)).exp()

    rows, columns = map(falloff, grid_size)
    product = rows[:, None, :, None] * columns[None, :, None, :]
    return F.pad(product.flatten(2).flatten(0, 1), (1, 0, 1, 0))


def _query_key(q: Tensor, k: Tensor, v: Tensor, neighbourhood: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=neighbourhood)


def _query_query(q: Tensor, k: Tensor, v: Tensor, neighbourhood: Tensor | None) -> Tensor:
    return _query_key(q, q, v, neighbourhood)


def _key_key(q: Tensor, k: Tensor, v: Tensor, neighbourhood: Tensor | None) -> Tensor:
    return _query_key(k, k, v, neighbourhood)


def _correlative(q: Tensor, k: Tensor, v: Tensor, neighbourhood: Tensor | None) -> Tensor:
    return _query_query(q, k, v, neighbourhood) + _key_key(q, k, v, neighbourhood)


def _values(q: Tensor, k: Tensor, v: Tensor, neighbourhood: Tensor | None) -> Tensor:
    return v


def _neighbours(q: Tensor, k: Tensor, v: Tensor, neighbourhood: Tensor | None) -> Tensor:
    assert neighbourhood is not None
    lengths = (x.norm(dim=-1).mean(dim=-1) for x in (q, k))
    scale = torch.stack(tuple(lengths)).prod(dim=0).mean(dim=-1) / q.shape[-1] ** 0.5
    return (scale[:, None, None, None] * neighbourhood).softmax(dim=-1) @ v


PATCH_ATTENTIONS: dict[str, PatchAttention] = {
    'clip': PatchAttention(_query_key, residual=True),
    'maskclip': PatchAttention(_values, residual=True, takes_neighbourhood=False),
    'sclip': PatchAttention(_correlative, residual=True),
    'clearclip': PatchAttention(_query_query, residual=False),
    'naclip': PatchAttention(_key_key, residual=False, gaussian_std=5.0),
    'kk': PatchAttention(_key_key, residual=False),
    'gaussian': PatchAttention(_neighbours, residual=False, gaussian_std=5.0),
}
"""By the name of the method; an entry more is a method more (docs/clip.md)."""
