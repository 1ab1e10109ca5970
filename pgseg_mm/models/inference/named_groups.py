"""The same groups under several names: by their labels, by what is there, by each naming rule."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .pamr import PAMR
from .pixel_classes import ImageScores
from .sliding_window import Window
from .window_scores import (
    Place,
    assign_windows,
    check_resizing,
    crop,
    encode_windows,
    join_scores,
)

ORACLE = 'oracle'
"""Each group takes the class that most of its pixels have."""
PRESENT = 'present'
"""Each group takes the best of the classes that its image has."""


class NamedGroups(NamedTuple):
    """B images whose groups were named in several ways."""

    scores: dict[str, list[ImageScores]]
    """Class scores of the images by each way: ``'oracle'``, ``'present'`` and naming rules."""
    used_groups: list[Tensor]
    """(windows,) of each image: how many groups win a pixel there."""
    num_groups: int
    """How many there are in a window."""


def name_groups(
    encode: Callable[[Tensor], Any],
    head: Any,
    images: Sequence[Tensor],
    windows: Sequence[Sequence[Window]],
    labels: Sequence[Tensor],
    namings: Sequence[str],
    chosen: str | None = None,
    batch_size: int | None = None,
    divisor: int = 1,
    pamr: PAMR | None = None,
) -> NamedGroups:
    """Name the groups of windows in several ways, from one encoding.

    A group is one of a window. Its class by ``'oracle'`` is that of most of its pixels within the
    window (the first of several), and has the score 1; a group whose pixels have no label has no
    class. ``'present'`` admits the classes of the whole image; see
    :meth:`GroupNaming.classify_among`. Overlapping windows are averaged as in a prediction.

    Args:
        encode: From (N, 3, h, w) windows of one size to features.
        head: A head that names groups.
        images: B images (3, H, W) of any sizes.
        windows: Those of each image.
        labels: (H, W) classes of each image's pixels, negative where there is none.
        namings: Rules by which the head names the groups.
        chosen: The rule by which ``'present'`` finds a background; by default the head's.
        batch_size, divisor, pamr: As :func:`score_windows` has them.

    Raises:
        ValueError: If the head has no such rule, or aligns corners and one of them names pixels.
    """
    heads = {naming: _by_rule(head, naming) for naming in namings}
    judge = _by_rule(head, chosen)
    present = torch.stack([classes_in(image, head.num_classes) for image in labels])
    groups: dict[Place, Tensor] = {}
    used: dict[Place, Tensor] = {}
    num_groups = 0
    scores: dict[str, dict[Place, Tensor]] = {way: {} for way in (ORACLE, PRESENT, *heads)}
    for chunk in encode_windows(encode, images, windows, batch_size, divisor):
        assigned = assign_windows(head, chunk, divisor)
        cropped = torch.stack([crop(labels[i], windows[i][j]) for i, j in chunk.places])
        among = judge.classify_among(chunk.features, present[[i for i, _ in chunk.places]])
        pixels = count_classes(assigned, cropped, num_groups := among.shape[1], head.num_classes)
        by_way = {ORACLE: _most(pixels).to(among.dtype), PRESENT: among}
        for naming, named in heads.items():
            classify = named.dense_scores if named.scores_pixels else named.classify_groups
            by_way[naming] = classify(chunk.features)
        for way, classified in by_way.items():
            scores[way].update(zip(chunk.places, classified, strict=True))
        groups.update(zip(chunk.places, assigned, strict=True))
        wins = F.one_hot(assigned.flatten(1), num_groups).amax(dim=1).sum(dim=1)
        used.update(zip(chunk.places, wins, strict=True))
    dense = {naming for naming, named in heads.items() if named.scores_pixels}
    joined = {
        way: join_scores(images, windows, own, None if way in dense else groups, divisor, pamr=pamr)
        for way, own in scores.items()
    }
    return NamedGroups(joined, _by_image(used, windows), num_groups)


def _by_image(found: dict[Place, Tensor], windows: Sequence[Sequence[Window]]) -> list[Tensor]:
    """What was found in the windows of each image, stacked."""
    return [torch.stack([found[i, j] for j in range(len(own))]) for i, own in enumerate(windows)]


def classes_in(labels: Tensor, num_classes: int) -> Tensor:
    """Whether each class has a pixel, (num_classes,); negative labels have no class."""
    return torch.bincount(labels[labels >= 0], minlength=num_classes) > 0


def count_classes(groups: Tensor, labels: Tensor, num_groups: int, num_classes: int) -> Tensor:
    """Pixels of each group by their class.

    Args:
        groups: (N, h, w), the group of each pixel.
        labels: (N, h, w), its class, negative where there is none.
        num_groups: Groups G.
        num_classes: Classes K.

    Returns:
        (N, G, K), int64.
    """
    window = torch.arange(len(groups), device=groups.device)[:, None, None]
    index = (window * num_groups + groups) * num_classes + labels
    size = (len(groups), num_groups, num_classes)
    counts = torch.bincount(index[labels >= 0], minlength=size[0] * size[1] * size[2])
    return counts.view(size)


def _most(pixels: Tensor) -> Tensor:
    """(N, G, K): 1 for the class of most pixels, and nothing for groups without one."""
    best = F.one_hot(pixels.argmax(dim=-1), pixels.shape[-1])
    return best * (pixels.amax(dim=-1, keepdim=True) > 0)


def _by_rule(head: Any, naming: str | None) -> Any:
    """A head with the same parts and another rule, or the head itself."""
    if naming is None:
        return head
    other = copy.copy(head)
    other.set_naming(naming)
    check_resizing(other)
    return other
