"""From scores of words to the class of each pixel."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .score_pieces import Best, ScorePieces, better_of, join_bands


@dataclass(frozen=True)
class Decision:
    """Scores of words to classes by a softmax over words (docs/method.md, 4.6).

    A class is as probable as its best word. Class 0 may have words of its own that stand for
    everything else, as SCLIP has it, or a constant score, as TCL has it.

    Args:
        logit_scale: Factor of the scores before the softmax.
        prob_threshold: Pixels whose most probable class has less become class 0; ``None`` for none.
        area_threshold: A class other than class 0 counts only where it wins more than this share of
            the pixels that are not class 0's; all others go to their next class. ``None`` for all.
        background_score: Score of class 0, which then has no words, in each pixel.

    Raises:
        ValueError: If the scale is not positive, a threshold is not from 0 to 1, or a number is not
            finite.
    """

    logit_scale: float = 40.0
    prob_threshold: float | None = None
    area_threshold: float | None = None
    background_score: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            number = isinstance(value, (int, float)) and math.isfinite(value)
            if not number and (value is not None or name == 'logit_scale'):
                raise ValueError(f'decision {name} must be a finite number, got {value!r}')
        if not self.logit_scale > 0:
            raise ValueError(f'decision logit_scale must be positive, got {self.logit_scale}')
        for name in ('prob_threshold', 'area_threshold'):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f'decision {name} must be None or from 0 to 1, got {value}')

    @property
    def has_constant(self) -> bool:
        """Whether class 0 has a constant score in place of words."""
        return self.background_score is not None

    @property
    def threshold(self) -> float | None:
        """What decides on class 0: ``background_score``, if there is one, or ``prob_threshold``."""
        return self.background_score if self.has_constant else self.prob_threshold

    def with_threshold(self, threshold: float | None) -> 'Decision':
        """The same at another threshold of class 0; without one no pixel becomes class 0 by rule.

        Args:
            threshold: In place of ``background_score``, if there is one, or ``prob_threshold``.
        """
        if self.has_constant and threshold is not None:
            return replace(self, background_score=threshold)
        return replace(self, background_score=None, prob_threshold=threshold)


class Decided(NamedTuple):
    """Class of each pixel."""

    best: Best
    """Most probable class and its probability, before ``prob_threshold``; the score in place of the
    probability where that was not asked for."""
    labels: Tensor
    """(H, W), int64, the classes after it."""
    lse: Tensor | None
    """(H, W), logarithm of the sum that the softmax divides by, if it was asked for."""
    kept: Tensor
    """(K,), whether a class is left by the area rule."""


def as_decision(cfg: Mapping[str, Any] | None) -> Decision | None:
    """The rule of a config.

    Raises:
        ValueError: If an entry is unknown or faulty.
    """
    if cfg is None:
        return None
    known = Decision.__dataclass_fields__
    if not isinstance(cfg, Mapping) or cfg.keys() - known.keys():
        raise ValueError(f'test_cfg decision must be a dict with some of {list(known)}, got {cfg}')
    return Decision(**cfg)


def decide(pieces: ScorePieces, classes: Tensor, rule: Decision, probable: bool = False) -> Decided:
    """Decide on the class of each pixel, from pieces of words.

    Args:
        pieces: Scores of W words.
        classes: (W,) class of each word, in ascending order.
        rule: How to decide.
        probable: Whether to return probabilities where no threshold needs them.
    """
    probable = probable or bool(rule.prob_threshold)
    lse = None
    if probable:
        found = ((rows, _best_and_sum(band, rule)) for rows, band in pieces.bands())
        values, columns, lse = join_bands(pieces.size[0], found)
        best = Best(values, columns)
    else:
        best = best_of_words(pieces, None, rule)
    num_classes = int(classes.max()) + 1
    labels = _classes_of(best, classes)
    kept = torch.ones(num_classes, dtype=torch.bool, device=labels.device)
    if rule.area_threshold is not None:
        won = torch.bincount(labels.flatten(), minlength=num_classes).double()
        kept = won > rule.area_threshold * won[1:].sum()
        kept[0] = True
    if not kept[labels].all():  # where no pixel loses its class, nothing changes
        best = best_of_words(pieces, kept.cpu()[classes].nonzero().squeeze(1), rule)
        labels = _classes_of(best, classes)
    if lse is None:
        return Decided(Best(best.values, labels), labels, lse, kept)
    probability = (rule.logit_scale * best.values).sub_(lse).exp_()
    decided = labels.masked_fill(probability < (rule.prob_threshold or 0), 0)
    return Decided(Best(probability, labels), decided, lse, kept)


def probabilities(pieces: ScorePieces, classes: Tensor, rule: Decision) -> Tensor:
    """Probabilities (K, H, W) of the classes, after the area rule."""
    decided = decide(pieces, classes, rule, probable=True)
    lse, kept = decided.lse, decided.kept
    assert lse is not None
    out = lse.new_zeros(len(kept), *pieces.size)
    if rule.background_score is not None:
        out[0] = (rule.logit_scale * rule.background_score - lse).exp()
    for rows, band in pieces.bands():
        for columns, scores in band:
            probability = (rule.logit_scale * scores - lse[rows]).exp()
            index = classes[columns].to(out.device)[:, None, None].expand_as(probability)
            out[:, rows].scatter_reduce_(0, index, probability, 'amax')
    out[~kept] = 0
    return out


def _best_and_sum(
    band: Iterator[tuple[Tensor, Tensor]], rule: Decision
) -> tuple[Tensor, Tensor, Tensor]:
    """Score and number of each pixel's best word, and logarithm of the sum over all, as it runs."""
    best = None
    total = torch.zeros(())
    for columns, scores in band:
        before = _start(rule, scores[0]) if best is None else best
        if best is None:
            total = torch.full_like(scores[0], 0 if before is None else 1)
        best = better_of(before, columns, scores)
        if before is not None:
            total *= (rule.logit_scale * (before.values - best.values)).exp()
        total += scores.sub_(best.values).mul_(rule.logit_scale).exp_().sum(dim=0)
    assert best is not None
    return *best, rule.logit_scale * best.values + total.log()


def best_of_words(pieces: ScorePieces, words: Tensor | None, rule: Decision) -> Best:
    """Best word of each pixel among some, or all, of them."""
    if words is not None and not len(words):  # the constant score alone is left
        like = torch.zeros(pieces.size, device=pieces.device)
        return Best(like + (rule.background_score or 0), like.long() - 1)

    def bands() -> Iterator[tuple[slice, Best]]:
        for rows, band in pieces.bands(words):
            best = None
            for columns, scores in band:
                best = better_of(_start(rule, scores[0]) if best is None else best, columns, scores)
            assert best is not None
            yield rows, best

    return Best(*join_bands(pieces.size[0], bands()))


def _start(rule: Decision, like: Tensor) -> Best | None:
    """What the words are compared with: the constant score, if there is one."""
    if rule.background_score is None:
        return None
    return Best(
        torch.full_like(like, rule.background_score),
        torch.full_like(like, -1, dtype=torch.long),
    )


def _classes_of(best: Best, classes: Tensor) -> Tensor:
    """(H, W) class of the best word; column -1 is the constant score of class 0."""
    labels = classes.to(best.columns.device)[best.columns.clamp(min=0)]
    return labels.masked_fill_(best.columns < 0, 0)
