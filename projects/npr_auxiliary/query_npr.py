from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn


class QueryNPR(BaseModule):
    """NPR between the queries of a decoder and prototypes of the features that it reads.

    Queries of an image are pulled one-to-one to prototypes that are clustered, without gradient,
    from its features, and pushed away from the other prototypes
    (:class:`pgseg_mm.models.NPRLoss`). It is a module of its own: any model that has queries
    (B, G, C) can call it.

    Args:
        num_queries: Number of queries G, and of prototypes.
        query_channels: Channels C of the queries.
        feature_channels: Channels of the features. Where they are not C, a linear layer takes the
            queries there.
        loss: Arguments of ``NPRLoss``, such as ``dict(loss_weight=0.1, begin=1000)``; in it
            ``prototypes`` may have arguments of ``NonLearnablePrototypes``, such as
            ``dict(momentum=0.99)``.
    """

    def __init__(
        self,
        num_queries: int,
        query_channels: int,
        feature_channels: int,
        loss: dict | None = None,
    ) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.proj: nn.Module = nn.Identity()
        if query_channels != feature_channels:
            self.proj = nn.Linear(query_channels, feature_channels)
        loss = dict(loss or {}, type='NPRLoss', _scope_='mmseg')
        loss['prototypes'] = {
            'type': 'NonLearnablePrototypes',
            **loss.get('prototypes', {}),
            'num_prototypes': num_queries,
            'embed_dims': feature_channels,
        }
        self.loss = MODELS.build(loss)

    def forward(self, features: Tensor, queries: Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            features: (B, C', H, W), a feature map.
            queries: (B, G, C), or (L, B, G, C) of L decoder layers, of which the last counts. Where
                there are more than ``num_queries`` tokens G, the last ones are the queries.

        Returns:
            Scalar, weighted as ``loss`` says.

        Raises:
            ValueError: If there are fewer queries.
        """
        tokens = queries[-1] if queries.ndim == 4 else queries
        if tokens.ndim != 3 or tokens.shape[1] < self.num_queries:
            raise ValueError(
                'expected queries of shape (B, G, C) or (L, B, G, C) with at least '
                f'num_queries={self.num_queries} of them (G), got {tuple(queries.shape)}'
            )
        groups = self.proj(tokens[:, -self.num_queries :])
        return self.loss(features.flatten(2).transpose(1, 2), groups)
