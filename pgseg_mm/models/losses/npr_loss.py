from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.dist import get_world_size
from mmengine.logging import MessageHub
from mmseg.registry import MODELS
from torch import Tensor

from ..layers.dist import all_reduce_sum
from .matching import PendingMatch, start_matching
from .temperature import LearnedTemperature

REJECTIONS = ('own', 'release')


class NPRPairs(NamedTuple):
    """Groups and prototypes that are being matched; see :meth:`NPRLoss.start`."""

    similarity: Tensor
    """(B, G, G) cosine similarity of groups (rows) and prototypes (columns)."""
    match: PendingMatch | None
    """The match, or None where the loss weighs nothing at this step."""
    weight: float
    """Factor of the loss at this step."""


def _normalise(similarity: Tensor, dim: int, eps: float = 1e-6) -> Tensor:
    low, high = similarity.aminmax(dim=dim, keepdim=True)
    return (similarity - low) / (high - low + eps)


@MODELS.register_module()
class NPRLoss(LearnedTemperature):
    """Non-learnable prototypical regularisation: pulls groups to prototypes (docs/method.md, 3.3).

    Groups and prototypes of an image are matched one-to-one, unsure pairs are rejected, and each
    kept group must tell its prototype from the others, and each kept prototype its group. One
    module serves all stages, which share its temperature. It can be used with any model that has
    query or group tokens.

    The weight follows a schedule: 0 before step ``begin`` of the run, then linearly up to
    ``loss_weight`` over ``ramp`` steps. Steps are those of mmengine's Runner; without a Runner the
    weight is ``loss_weight``.

    Three options give what the authors' release does instead of what the paper says
    (docs/method.md, 6); the other two deviations are ``NonLearnablePrototypes(momentum=None)`` and
    :class:`ReleaseTextPrototypes`.

    Args:
        loss_weight: Factor of the loss at full strength.
        begin: First step (iteration, or epoch with ``by_epoch``) with the loss.
        ramp: Number of steps over which the weight rises.
        by_epoch: Whether ``begin`` and ``ramp`` count epochs.
        temperature: Initial temperature; it is learned.
        max_scale: Upper limit of the inverse temperature.
        threshold: A pair is kept in a direction if its min-max-normalised similarity there exceeds
            this share.
        maximize: Whether the match has the largest total similarity. ``False`` is the release: it
            passes similarities as costs and so matches what is least alike.
        rejection: What decides whether a pair is kept. ``'own'``: each direction tests the pair's
            own similarity, normalised over that direction's candidates. ``'release'``: similarities
            of groups are normalised over the groups, those of prototypes over the prototypes, each
            is read against the first candidate alone, and each direction applies the test of the
            other.
        nan_if_empty: Whether a direction that keeps no pair in the whole batch counts as NaN, as in
            the release, instead of zero. Its gradient is zero in either case; where
            :class:`FiniteLossHook` is in use, which ends a run at such a loss, leave it off.
        prototypes: Config of the prototypes to estimate from features where none are given, e.g.
            ``dict(type='NonLearnablePrototypes', num_prototypes=8, embed_dims=384)``.
    """

    def __init__(
        self,
        loss_weight: float = 0.1,
        begin: int = 0,
        ramp: int = 0,
        by_epoch: bool = False,
        temperature: float = 0.1,
        max_scale: float = 100.0,
        threshold: float = 0.1,
        maximize: bool = True,
        rejection: str = 'own',
        nan_if_empty: bool = False,
        prototypes: dict | None = None,
    ) -> None:
        super().__init__(temperature, max_scale)
        if begin < 0 or ramp < 0:
            raise ValueError(f'begin and ramp must not be negative, got {begin} and {ramp}')
        if rejection not in REJECTIONS:
            raise ValueError(f'rejection must be one of {REJECTIONS}, got {rejection!r}')
        self.loss_weight = loss_weight
        self.begin = begin
        self.ramp = ramp
        self.by_epoch = by_epoch
        self.threshold = threshold
        self.maximize = maximize
        self.rejection = rejection
        self.nan_if_empty = nan_if_empty
        self.prototypes = (
            None if prototypes is None else MODELS.build({'_scope_': 'mmseg', **prototypes})
        )

    def current_weight(self, loss_weight: float | None = None) -> float:
        """Weight of the loss at this step of the run.

        Args:
            loss_weight: Factor at full strength, if not the module's own.
        """
        full = self.loss_weight if loss_weight is None else loss_weight
        step = MessageHub.get_current_instance().get_info('epoch' if self.by_epoch else 'iter')
        if step is None:
            return full
        progress = (step + 1 - self.begin) / (self.ramp + 1)
        return full * min(max(progress, 0.0), 1.0)

    def forward(
        self,
        features: Tensor | None,
        groups: Tensor,
        prototypes: Tensor | None = None,
    ) -> Tensor:
        """Loss of the groups of a batch.

        Args:
            features: (B, N, C) tokens to estimate prototypes from; ignored where prototypes are
                given.
            groups: (B, G, C) group tokens or centres; the only input that gets a gradient.
            prototypes: (B, G, C) prototypes of the same images.

        Returns:
            Scalar: the sum of both directions' mean cross-entropies over the kept pairs, scaled so
            that its mean over ranks is that of the global batch; zero if nothing is kept.

        Raises:
            ValueError: If there are neither prototypes nor a way to estimate them, or if groups
                and prototypes differ in shape.
        """
        if prototypes is None:
            if self.prototypes is None or features is None:
                raise ValueError(
                    'NPRLoss needs prototypes: pass them, or pass features and configure '
                    "prototypes=dict(type='NonLearnablePrototypes', ...)"
                )
            prototypes = self.prototypes(features).prototypes
        return self.finish([self.start(groups, prototypes)])[0]

    def start(
        self, groups: Tensor, prototypes: Tensor, loss_weight: float | None = None
    ) -> NPRPairs:
        """Begin to match groups and prototypes, without waiting for the device.

        Args:
            groups: (B, G, C) group tokens or centres.
            prototypes: (B, G, C) prototypes of the same images.
            loss_weight: Factor of the loss at full strength, if not the module's own.

        Returns:
            What :meth:`finish` makes a loss of.

        Raises:
            ValueError: If groups and prototypes differ in shape.
        """
        if groups.shape != prototypes.shape:
            raise ValueError(
                'groups and prototypes must have one shape (B, G, C), got '
                f'{tuple(groups.shape)} and {tuple(prototypes.shape)}'
            )
        weight = self.current_weight(loss_weight)
        with torch.autocast(groups.device.type, enabled=False):
            groups = F.normalize(groups.to(prototypes.dtype), dim=-1)
            similarity = groups @ F.normalize(prototypes.detach(), dim=-1).transpose(1, 2)
            match = start_matching(similarity, self.maximize) if weight else None
        return NPRPairs(similarity, match, weight)

    def finish(self, pairs: Sequence[NPRPairs]) -> list[Tensor]:
        """Wait once for all matches and compute the losses.

        Args:
            pairs: What :meth:`start` returned, e.g. for each stage.

        Returns:
            For each of them the loss, as :meth:`forward` returns it.
        """
        matches = [None if pair.match is None else pair.match.result() for pair in pairs]
        losses = []
        for pair, match in zip(pairs, matches, strict=True):
            if match is None:
                # all parameters stay in the graph, as DistributedDataParallel wants it
                losses.append(0 * self.logit_scale + (0 * pair.similarity).sum())
                continue
            with torch.autocast(pair.similarity.device.type, enabled=False):
                losses.append(pair.weight * self._loss(pair.similarity, match))
        return losses

    def _loss(self, similarity: Tensor, match: Tensor) -> Tensor:
        # number the prototypes by their group: pairs stand on the diagonal from here on
        similarity = similarity.gather(2, match[:, None].expand_as(similarity))
        kept = self._kept(similarity.detach())
        logits = self.scale * similarity
        pairs = torch.stack([-logits.log_softmax(dim).diagonal(dim1=1, dim2=2) for dim in (2, 1)])
        # (2, B, G): groups to prototypes, prototypes to groups
        local = torch.where(kept, pairs, 0).sum(dim=(1, 2))
        count = all_reduce_sum(kept.sum(dim=(1, 2)))
        mean = get_world_size() * local / count.clamp(min=1)
        if self.nan_if_empty:
            mean = torch.where(count > 0, mean, mean + torch.nan)
        return mean.sum()

    def _kept(self, similarity: Tensor) -> Tensor:
        """Pairs that are kept, (2, B, G): groups to prototypes, prototypes to groups."""
        over_prototypes, over_groups = (_normalise(similarity, dim) for dim in (2, 1))
        if self.rejection == 'release':
            tested = torch.stack([over_prototypes[:, 0], over_groups[:, :, 0]])
        else:
            tested = torch.stack(
                [x.diagonal(dim1=1, dim2=2) for x in (over_prototypes, over_groups)]
            )
        return ~(tested <= self.threshold)  # what is not a number is kept, and seen in the loss
