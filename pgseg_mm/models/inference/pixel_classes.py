"""From the scores of one or several views of an image to the classes of its pixels."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers.precision import at_least_float32
from .decision import Decision, decide, probabilities
from .dense_scores import DenseScores
from .pamr import PAMR
from .score_pieces import Best, ScorePieces, mean_of_winners
from .stitching import StitchedScores, mean_class_map

ImageScores = StitchedScores | DenseScores
"""Class scores of an image, before they are resized."""


class PixelRules(NamedTuple):
    """How scores become classes."""

    decision: Decision | None = None
    """The rule; by default the largest score wins."""
    classes: Tensor | None = None
    """(W,) class of each word whose score there is, for a rule; by default each is a class."""
    pamr: PAMR | None = None
    """A refinement of the scores by the image."""


PLAIN_RULES = PixelRules()
"""The largest score wins."""


def mean_pieces(
    views: Sequence[ImageScores], size: tuple[int, int], pamr: PAMR | None = None
) -> ScorePieces:
    """Mean of the scores of several views, each resized bilinearly.

    Args:
        views: Scores of one image, of any sizes and the same classes.
        size: (height, width) of the result.
        pamr: A refinement, by the image that the first view has.
    """
    parts = [view.pieces(size) for view in views]
    affinity = None
    if pamr is not None:
        guide = views[0].guide
        if guide is None:
            raise ValueError('a refinement needs the image, but the scores were made without it')
        affinity = pamr.affinity(
            F.interpolate(
                at_least_float32(guide)[None], size=size, mode='bilinear', align_corners=False
            )[0]
        )

    def make(columns: Tensor | None, rows: slice) -> Tensor:
        total = parts[0].make(columns, rows)
        for part in parts[1:]:
            total += part.make(columns, rows)
        total = total / len(parts) if len(parts) > 1 else total
        if pamr is None or affinity is None:
            return total
        return pamr.refine(total, affinity.to(total))

    by_columns = pamr is not None or any(part.by_columns for part in parts)
    return parts[0]._replace(make=make, by_columns=by_columns)


def mean_logits(
    views: Sequence[ImageScores], size: tuple[int, int], rules: PixelRules = PLAIN_RULES
) -> Tensor:
    """Dense scores (K, height, width) of several views of an image; probabilities by a rule."""
    pieces = mean_pieces(views, size, rules.pamr)
    if rules.decision is None:
        return pieces.logits()
    return probabilities(pieces, _classes(rules, pieces), rules.decision)


def classify_pixels(
    views: Sequence[ImageScores],
    size: tuple[int, int],
    rules: PixelRules = PLAIN_RULES,
    class_scores: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Best class of each pixel by the mean of several views' scores.

    Args:
        views: Scores of one image, of any sizes and the same classes.
        size: (height, width) of the result.
        rules: How scores become classes.
        class_scores: Whether to return the mean score of each class, too.

    Returns:
        (height, width), int64, and, if asked for, (K,): the mean score, or probability, of each
        class over the pixels that it wins, 0 where it wins none. Pixels that a probability
        threshold makes background count for no class.
    """
    if rules.decision is not None:
        pieces = mean_pieces(views, size, rules.pamr)
        classes = _classes(rules, pieces)
        decided = decide(pieces, classes, rules.decision, probable=class_scores)
        num_classes = int(classes.max()) + 1
        if not class_scores:
            return decided.labels, None
        own = decided.labels == decided.best.columns  # others are background by a threshold
        won = Best(decided.best.values[own], decided.labels[own])
        return decided.labels, mean_of_winners(won, num_classes)
    stitched = [view for view in views if isinstance(view, StitchedScores)]
    if rules.pamr is None and len(stitched) == len(views):
        labels = mean_class_map(stitched, size)
        if not class_scores:
            return labels, None
        values = torch.stack([view.scores_of(labels) for view in stitched]).mean(dim=0)
        best, num_classes = Best(values, labels), stitched[0].table.shape[1]
    else:
        pieces = mean_pieces(views, size, rules.pamr)
        best, num_classes = pieces.best(), pieces.num_columns
    return best.columns, mean_of_winners(best, num_classes) if class_scores else None


def _classes(rules: PixelRules, pieces: ScorePieces) -> Tensor:
    if rules.classes is not None:
        return rules.classes
    first = int(rules.decision is not None and rules.decision.has_constant)
    return torch.arange(first, first + pieces.num_columns)
