"""Pixel-adaptive mask refinement: class scores follow the edges of the image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers.precision import at_least_float32
from ..layers.whole_numbers import check_whole

BAND_ELEMENTS = 1 << 22
"""Affinities that are normalised at a time."""
PIECE_ELEMENTS = 1 << 24
"""Scores of a window, with the margins of its neighbours, that are refined at a time."""
EPSILON = 1e-8
MAX_ITERS, MAX_DILATIONS, MAX_DILATION = 100, 16, 1024
"""More than anyone needs; a config that comes with weights may ask for anything."""
CONTRAST = 0.1
"""Factor of the local deviation by which differences of colours are measured."""


@dataclass(frozen=True)
class PAMR:
    """Pixel-adaptive mask refinement (docs/method.md, 4.5).

    `Single-Stage Semantic Segmentation from Image Labels <https://arxiv.org/abs/2005.08104>`_.

    Args:
        num_iters: How often scores are replaced by the mean of their neighbours'.
        dilations: Distances of the 8 neighbours in pixels, of which there are 8 for each.
        window_downscale: Scores of each window are refined, at this part of its size (4 is a
            quarter of each side), before windows are averaged, as TCL does. ``None`` refines those
            of the image, at the size of the result.

    Raises:
        ValueError: If one of them is no positive integer or a very large one, or there is no
            dilation.
    """

    num_iters: int = 10
    dilations: tuple[int, ...] = (8, 16)
    window_downscale: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.dilations, Sequence) or not 0 < len(self.dilations) <= MAX_DILATIONS:
            raise ValueError(
                f'pamr dilations must be 1 to {MAX_DILATIONS} integers, got {self.dilations!r}'
            )
        object.__setattr__(self, 'dilations', tuple(self.dilations))
        check_whole('pamr num_iters', self.num_iters, most=MAX_ITERS)
        for dilation in self.dilations:
            check_whole('each of pamr dilations', dilation, most=MAX_DILATION)
        if self.window_downscale is not None:
            check_whole('pamr window_downscale', self.window_downscale, most=MAX_DILATION)

    def affinity(self, image: Tensor) -> Tensor:
        """Weights of the neighbours of each pixel.

        Args:
            image: (C, H, W), of floats.

        Returns:
            (8 * dilations, H, W), which sum to 1 over the neighbours: dilation by dilation, row by
            row.
        """
        deviation = EPSILON + CONTRAST * local_deviation(image, self.dilations)
        height, width = image.shape[1:]
        weights = image.new_empty(8 * len(self.dilations), height, width)
        for weight, neighbour in zip(weights, neighbours(image, self.dilations), strict=True):
            torch.mean((image - neighbour).abs_().div_(deviation), dim=0, out=weight)
        rows = max(BAND_ELEMENTS // (len(weights) * width), 1)
        for band in weights.neg_().split(rows, dim=1):
            band.copy_(band.softmax(dim=0))
        return weights

    def refine(self, scores: Tensor, affinity: Tensor) -> Tensor:
        """Refine scores.

        Args:
            scores: (K, H, W), of any classes.
            affinity: What :meth:`affinity` returned for the image at this size.

        Returns:
            (K, H, W); a class does not depend on the others.
        """
        for _ in range(self.num_iters):
            refined = torch.zeros_like(scores)
            for weight, neighbour in zip(affinity, neighbours(scores, self.dilations), strict=True):
                refined.addcmul_(weight, neighbour)
            scores = refined
        return scores

    def refine_window(self, scores: Tensor, window: Tensor) -> Tensor:
        """Refine scores of a window at a ``window_downscale``-th of its size.

        Args:
            scores: (K, h, w) of any size, which are resized bilinearly.
            window: (3, H, W), as it was encoded.

        Returns:
            (K, ceil(H / window_downscale), ceil(W / window_downscale)).
        """
        size = self.refined_size(window.shape[-2:])
        guide = F.interpolate(
            at_least_float32(window)[None], size=size, mode='bilinear', align_corners=True
        )[0]
        if scores.shape[-2:] != size:
            scores = F.interpolate(scores[None], size=size, mode='bilinear', align_corners=False)[0]
        affinity = self.affinity(guide).to(scores)
        margins = 2 * max(self.dilations)
        few = max(PIECE_ELEMENTS // ((size[0] + margins) * (size[1] + margins)), 1)
        return torch.cat([self.refine(piece, affinity) for piece in scores.split(few)])

    def refined_size(self, size: Sequence[int]) -> tuple[int, int]:
        """(height, width) at which a window of a size in pixels is refined."""
        downscale = self.window_downscale or 1
        return -(-size[0] // downscale), -(-size[1] // downscale)


class Refinements(NamedTuple):
    """What is refined, and how."""

    of_windows: PAMR | None
    """Scores of each window, before they are averaged."""
    of_image: PAMR | None
    """Scores of the image, at the size of the result."""


def refinements(cfg: Mapping[str, Any] | bool | None) -> Refinements:
    """What of a prediction a config has refined; its arguments are those of :func:`as_pamr`."""
    pamr = as_pamr(cfg)
    if pamr is None or pamr.window_downscale is None:
        return Refinements(None, pamr)
    return Refinements(pamr, None)


def as_pamr(cfg: Mapping[str, Any] | bool | None) -> PAMR | None:
    """The refinement of a config: its arguments, or whether there is one.

    Raises:
        ValueError: If an argument is unknown or faulty.
    """
    if cfg is None or isinstance(cfg, bool):
        return PAMR() if cfg else None
    known = [field.name for field in fields(PAMR)]
    if not isinstance(cfg, Mapping) or cfg.keys() - set(known):
        raise ValueError(
            f'pamr must be True, False, or a dict with any of {", ".join(known)}, got {cfg}'
        )
    return PAMR(**cfg)


def neighbours(x: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """What the neighbours of each pixel have, dilation by dilation, row by row.

    Args:
        x: (C, H, W). Beyond its border are the values of the border.
        dilations: Distances in pixels.

    Returns:
        Views (C, H, W), 8 for each dilation.
    """
    height, width = x.shape[1:]
    margin = max(dilations)
    padded = F.pad(x, [margin] * 4, mode='replicate')
    for distance in dilations:
        steps = (margin - distance, margin, margin + distance)
        for y in steps:
            for left in steps:
                if (y, left) != (margin, margin):
                    yield padded[:, y : y + height, left : left + width]


def local_deviation(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """Unbiased standard deviation (C, H, W) of neighbours and, once a dilation, the pixel itself.

    Args:
        image: (C, H, W).
        dilations: Distances in pixels.
    """
    count = 9 * len(dilations)
    mean = image * (len(dilations) / count)
    for neighbour in neighbours(image, dilations):
        mean.add_(neighbour, alpha=1 / count)
    variance = (image - mean).square_().mul_(len(dilations))
    for neighbour in neighbours(image, dilations):
        difference = neighbour - mean
        variance.addcmul_(difference, difference)
    return variance.div_(count - 1).sqrt_()
