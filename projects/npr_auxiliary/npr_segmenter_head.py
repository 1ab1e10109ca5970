from mmseg.models.decode_heads import SegmenterMaskTransformerHead
from mmseg.registry import MODELS

from .npr_head_mixin import NPRHeadMixin


@MODELS.register_module()
class NPRSegmenterHead(NPRHeadMixin, SegmenterMaskTransformerHead):
    """Segmenter's mask transformer with NPR between its class tokens and prototypes.

    Weights of a plain ``SegmenterMaskTransformerHead`` load into it, and it predicts the same with
    them.

    Args:
        num_classes: Number of classes, and so of class tokens and prototypes.
        in_channels: Channels of the backbone's map.
        embed_dims: Channels of the class tokens.
        in_index: Which of the backbone's maps the head reads, and prototypes are estimated from.
        loss_npr: Arguments of ``NPRLoss``; see :class:`QueryNPR`.
        **kwargs: Further arguments of mmseg's head.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        embed_dims: int,
        in_index: int = -1,
        loss_npr: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(
            query_module='decoder_norm',
            npr=dict(
                num_queries=num_classes,
                query_channels=embed_dims,
                feature_channels=in_channels,
                loss=loss_npr,
            ),
            feature_index=in_index,
            num_classes=num_classes,
            in_channels=in_channels,
            embed_dims=embed_dims,
            in_index=in_index,
            **kwargs,
        )
