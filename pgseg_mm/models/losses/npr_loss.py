import torch
import torch.nn.functional as F
from mmengine.dist import get_world_size
from mmengine.logging import MessageHub
from mmseg.registry import MODELS
from torch import Tensor

from pgseg_mm.utils.dist import all_reduce_sum

from .matching import match_prototypes
from .temperature import LearnedTemperature


def _normalise(similarity: Tensor, dim: int, eps: float = 1e-6) -> Tensor:
    low, high = similarity.aminmax(dim=dim, keepdim=True)
    return (similarity - low) / (high - low + eps)


@MODELS.register_module()
class NPRLoss(LearnedTemperature):
    """Non-learnable prototypical regularisation: pulls groups to prototypes (METHOD 3).

    Groups and prototypes of an image are matched one-to-one, unsure pairs are rejected, and each
    kept group must tell its prototype from the others, and each kept prototype its group. One
    module serves all stages, which share its temperature. It can be used with any model that has
    query or group tokens.

    The weight follows a schedule: 0 before step ``begin`` of the run, then linearly up to
    ``loss_weight`` over ``ramp`` steps. Steps are those of mmengine's Runner; without a Runner the
    weight is ``loss_weight``.

    Args:
        loss_weight: Factor of the loss at full strength.
        begin: First step (iteration, or epoch with ``by_epoch``) with the loss.
        ramp: Number of steps over which the weight rises.
        by_epoch: Whether ``begin`` and ``ramp`` count epochs.
        temperature: Initial temperature; it is learned.
        max_scale: Upper limit of the inverse temperature.
        threshold: A pair is kept in a direction if its min-max-normalised similarity there exceeds
            this share.
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
        prototypes: dict | None = None,
    ) -> None:
        super().__init__(temperature, max_scale)
        if begin < 0 or ramp < 0:
            raise ValueError(f'begin and ramp must not be negative, got {begin} and {ramp}')
        self.loss_weight = loss_weight
        self.begin = begin
        self.ramp = ramp
        self.by_epoch = by_epoch
        self.threshold = threshold
        self.prototypes = None if prototypes is None else MODELS.build(prototypes)

    def current_weight(self) -> float:
        """Weight of the loss at this step of the run."""
        step = MessageHub.get_current_instance().get_info('epoch' if self.by_epoch else 'iter')
        if step is None:
            return self.loss_weight
        progress = (step + 1 - self.begin) / (self.ramp + 1)
        return self.loss_weight * min(max(progress, 0.0), 1.0)

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
        weight = self.current_weight()
        if prototypes is None:
            if self.prototypes is None or features is None:
                raise ValueError(
                    'NPRLoss needs prototypes: pass them, or pass features and configure '
                    "prototypes=dict(type='NonLearnablePrototypes', ...)"
                )
            prototypes = self.prototypes(features).prototypes
        if groups.shape != prototypes.shape:
            raise ValueError(
                'groups and prototypes must have one shape (B, G, C), got '
                f'{tuple(groups.shape)} and {tuple(prototypes.shape)}'
            )
        if weight == 0:
            return 0 * self.logit_scale
        with torch.autocast(groups.device.type, enabled=False):
            return weight * self._loss(groups.to(prototypes.dtype), prototypes.detach())

    def _loss(self, groups: Tensor, prototypes: Tensor) -> Tensor:
        similarity = F.normalize(groups, dim=-1) @ F.normalize(prototypes, dim=-1).transpose(1, 2)
        match = match_prototypes(similarity)[:, None].expand_as(similarity)
        # number the prototypes by their group: pairs stand on the diagonal from here on
        similarity = similarity.gather(2, match)
        kept = torch.stack(
            [
                _normalise(similarity.detach(), dim).diagonal(dim1=1, dim2=2) > self.threshold
                for dim in (2, 1)
            ]
        )
        logits = self.scale * similarity
        pairs = torch.stack([-logits.log_softmax(dim).diagonal(dim1=1, dim2=2) for dim in (2, 1)])
        # (2, B, G): groups to prototypes, prototypes to groups
        local = torch.where(kept, pairs, 0).sum(dim=(1, 2))
        count = all_reduce_sum(kept.sum(dim=(1, 2)))
        return (get_world_size() * local / count.clamp(min=1)).sum()
