import torch
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from pgseg_mm.models import GroupFeatures


@MODELS.register_module()
class QueryGroups(BaseModule):
    """The map of any backbone, divided among learned queries, as groups for a ``PGSegHead``.

    Queries look at the map and then compete for its patches: a softmax over the queries is their
    masks. A query stands for what it has seen and for the mean of its patches.

    Args:
        backbone: Config of a backbone that returns maps.
        in_channels: Channels of the map.
        embed_dims: Channels C of the queries.
        num_queries: Number of queries G.
        num_layers: Layers of the decoder.
        num_heads: Its attention heads.
        out_index: Which of the backbone's maps is divided.
        init_cfg: Config of mmengine's weight initialisation.
    """

    def __init__(
        self,
        backbone: dict,
        in_channels: int,
        embed_dims: int = 96,
        num_queries: int = 8,
        num_layers: int = 2,
        num_heads: int = 3,
        out_index: int = -1,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.backbone = MODELS.build(backbone)
        self.embed_dims = embed_dims
        self.out_index = out_index
        self.reduce = nn.Linear(in_channels, embed_dims)
        self.queries = nn.Parameter(torch.randn(1, num_queries, embed_dims) * 0.02)
        layer = nn.TransformerDecoderLayer(
            embed_dims, num_heads, 4 * embed_dims, dropout=0.0, batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, num_layers)
        self.norm_queries = nn.LayerNorm(embed_dims)
        self.norm_patches = nn.LayerNorm(embed_dims)
        self.norm = nn.LayerNorm(embed_dims)

    def forward(self, images: Tensor) -> GroupFeatures:
        """Divide (B, 3, H, W) images among the queries."""
        maps = self.backbone(images)[self.out_index]
        patches = self.reduce(maps.flatten(2).transpose(1, 2))
        queries = self.decoder(self.queries.expand(len(images), -1, -1), patches)
        patches = self.norm_patches(patches)
        logits = self.norm_queries(queries) @ patches.transpose(1, 2) * self.embed_dims**-0.5
        masks = logits.softmax(dim=1)
        pooled = masks @ patches / masks.sum(dim=2, keepdim=True).clamp(min=1e-6)
        grid_size = (maps.shape[2], maps.shape[3])
        return GroupFeatures(self.norm(queries + pooled), (masks,), (queries,), (), grid_size)
