"""A model with the classes of several calls, which share its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pgseg_mm.models import OpenVocabSegmentor
from pgseg_mm.models.inference.pamr import as_pamr
from pgseg_mm.text.vocabulary import Vocabulary
from pgseg_mm.text.words import with_background

MAX_VIEWS = 8
"""Lists of classes whose embeddings are kept."""
SCORES = (None, 'classes', 'dense')


class ModelViews:
    """Makes views of a model, and keeps the last ones: their words are not embedded again.

    Args:
        model: The model, which notices nothing of its views.
    """

    def __init__(self, model: OpenVocabSegmentor) -> None:
        self.model = model
        self._kept: dict[tuple, OpenVocabSegmentor] = {}

    @property
    def kept(self) -> tuple[OpenVocabSegmentor, ...]:
        """The views of the last calls, the latest at the end."""
        return tuple(self._kept.values())

    def get(
        self,
        words: Vocabulary,
        threshold: float | None,
        scores: str | None,
        groups: bool,
        naming: str | None = None,
        pamr: bool | Mapping[str, Any] | None = None,
    ) -> OpenVocabSegmentor:
        """The model with these classes and settings.

        Args:
            words: The classes.
            threshold: Threshold of the background, which is class 0; ``None`` without one.
            scores: ``'classes'``, ``'dense'`` or ``None``.
            groups: Whether it adds groups to its results.
            naming: How groups get their classes; ``None`` as the model says.
            pamr: Whether, or with which settings, scores are refined; ``None`` as the model says.

        Raises:
            ValueError: If a setting is faulty.
        """
        if scores not in SCORES:
            raise ValueError(f"scores must be 'classes', 'dense' or None, got {scores!r}.")
        naming = naming or getattr(self.model.decode_head, 'naming', None)
        refined = as_pamr(self.model.test_cfg.get('pamr') if pamr is None else pamr)
        settings = self._settings()
        key = (settings, words, threshold, scores, groups, naming, refined)
        view = self._kept.pop(key, None)
        if view is None:
            kept = [view for (known, *_), view in self._kept.items() if known == settings]
            same = (view for view in reversed(kept) if _alike(view.vocabulary, words))
            view = next(same, self.model).with_classes(
                words,
                threshold,
                naming,
                seg_logits=scores == 'dense',
                class_scores=scores == 'classes',
                groups=groups,
                pamr=None if refined is None else asdict(refined),
                decision=self.model.test_cfg.get('decision'),
            )
        else:
            view.set_vocabulary(words)  # notices text weights that have moved
        self._kept[key] = view
        if len(self._kept) > MAX_VIEWS:
            del self._kept[next(iter(self._kept))]
        return view

    def _settings(self) -> str:
        """What views take over from the model, which may be changed between two calls."""
        model = self.model
        return repr((dict(model.test_cfg), model.templates, model.normalize_prompts))


def _alike(one: Vocabulary | None, other: Vocabulary) -> bool:
    """Whether two lists of classes are the same but for the background."""
    return one is not None and with_background(one, False) == with_background(other, False)
