"""How groups get their classes: rules by name."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import GroupFeatures

NAMING_RULES = ('affinity', 'logits', 'mixture')
"""``'affinity'``: softmax of a group over all classes times that over those which the whole image
admits. ``'logits'``: softmax over all classes alone. ``'mixture'``: a pixel has the mean of that of
all groups, weighted by its soft assignment."""
ABSENT = -1.0
"""Score of a background in an image that has none; below that of any class."""


class GroupNaming:
    """Class scores of groups and of patches by a naming rule; a part of :class:`PGSegHead`."""

    image_projector: torch.nn.Module
    background_threshold: float | None
    top_classes: int
    contrasts_regions: bool
    with_background: bool
    if TYPE_CHECKING:

        def embed_images(self, features: GroupFeatures) -> Tensor: ...

        def _class_logits(self, embeds: Tensor) -> Tensor: ...

        def _with_background(
            self, scores: Tensor, thresholds: Sequence[float] | None, dim: int = -1
        ) -> Tensor: ...

        @staticmethod
        def _check_features(features: GroupFeatures) -> None: ...

    def set_naming(self, naming: str) -> None:
        """Choose how groups get their classes; see ``naming`` of the head.

        Raises:
            ValueError: If there is no such rule.
        """
        if naming not in NAMING_RULES:
            raise ValueError(
                f'naming must be one of {", ".join(map(repr, NAMING_RULES))}, got {naming!r}'
            )
        self.naming = naming

    @property
    def scores_pixels(self) -> bool:
        """Whether pixels of one group differ, so that :meth:`dense_scores` tells their classes."""
        return self.naming == 'mixture'

    def classify_groups(
        self, features: GroupFeatures, thresholds: Sequence[float] | None = None
    ) -> Tensor:
        """Scores of groups and classes by the naming rule (docs/method.md, 4.2 and 4.3).

        Args:
            features: Groups of B windows.
            thresholds: Background thresholds in place of ``background_threshold``.

        Returns:
            (B, G, num_classes), with the background's column first where there is one, or a column
            for each of several thresholds.
        """
        return self._with_background(self._group_scores(features), thresholds)

    def classify_among(self, features: GroupFeatures, present: Tensor) -> Tensor:
        """Scores of groups when it is known which classes their image has.

        The best class of a group is that of its own logits among those that are there, whatever
        the naming rule. A background is found as the rule finds it, from scores that are 0 for
        classes that are not there; with ``'affinity'`` the image admits those that are. Without a
        background in the image no group becomes one.

        Args:
            features: Groups of B windows.
            present: (B, num_classes), whether the image of each window has a class.

        Returns:
            (B, G, num_classes), with the background's column first where there is one.
        """
        self._check_features(features)
        logits = self._logits_of(features.tokens)
        foreground = present[:, None, int(self.with_background) :]
        # finite, so that an image without any of the classes gives no NaN
        lowest = torch.finfo(logits.dtype).min
        among = logits.masked_fill(~foreground, lowest).softmax(dim=-1) * foreground
        if not self.with_background:
            return among
        strength = logits.softmax(dim=-1) * (among if self.naming == 'affinity' else foreground)
        found = self._with_background(strength, None)
        absent = torch.cat([torch.full_like(found[..., :1], ABSENT), among], dim=-1)
        return torch.where(present[:, :1, None], found, absent)

    def dense_scores(
        self, features: GroupFeatures, thresholds: Sequence[float] | None = None
    ) -> Tensor:
        """Scores of patches and classes: those of all groups, mixed by the soft assignment.

        Args:
            features: Groups of B windows.
            thresholds: Background thresholds in place of ``background_threshold``.

        Returns:
            (B, num_classes, h, w), with the background's maps before the classes as in
            :meth:`classify_groups`.
        """
        scores = self._group_scores(features)
        assignment = features.patch_assignment().to(scores.dtype)
        with torch.autocast(scores.device.type, enabled=False):
            mixed = torch.einsum('bgk,bghw->bhwk', scores, assignment)
        return self._with_background(mixed, thresholds).permute(0, 3, 1, 2)

    def _group_scores(self, features: GroupFeatures) -> Tensor:
        """(B, G, K) scores of the foreground classes."""
        self._check_features(features)
        tokens = features.tokens
        if self.naming != 'affinity':
            return self._logits_of(tokens).softmax(dim=-1)
        if self.contrasts_regions:  # an image's embedding is no projection of a token
            image_logits = self._class_logits(self.embed_images(features))[:, None]
            group_logits = self._logits_of(tokens)
        else:
            logits = self._logits_of(torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1))
            image_logits, group_logits = logits[:, :1], logits[:, 1:]
        best = image_logits.topk(min(self.top_classes, group_logits.shape[-1]), dim=-1).indices
        admitted = torch.zeros_like(image_logits, dtype=torch.bool).scatter(-1, best, True)
        narrowed = group_logits.masked_fill(~admitted, float('-inf'))
        return group_logits.softmax(dim=-1) * narrowed.softmax(dim=-1)

    def _logits_of(self, tokens: Tensor) -> Tensor:
        embeds = self.image_projector(tokens)
        return self._class_logits(F.normalize(embeds, dim=-1).float())
