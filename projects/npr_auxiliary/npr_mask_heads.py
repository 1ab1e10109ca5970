from collections.abc import Sequence

from mmseg.models.decode_heads import Mask2FormerHead, MaskFormerHead
from mmseg.registry import MODELS

from .npr_head_mixin import NPRHeadMixin


class _NPRMaskHead(NPRHeadMixin):
    """NPR between the queries of MaskFormer's kind of head and prototypes of the coarsest map.

    Args:
        in_channels: Channels of the backbone's maps, of which the last is the coarsest.
        feat_channels: Channels of the queries.
        num_queries: Number of queries, and so of prototypes.
        loss_npr: Arguments of ``NPRLoss``; see :class:`QueryNPR`.
        **kwargs: Further arguments of mmseg's head.
    """

    queries_of: str

    def __init__(
        self,
        in_channels: Sequence[int],
        feat_channels: int,
        num_queries: int = 100,
        loss_npr: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(
            query_module=self.queries_of,
            npr=dict(
                num_queries=num_queries,
                query_channels=feat_channels,
                feature_channels=in_channels[-1],
                loss=loss_npr,
            ),
            in_channels=in_channels,
            feat_channels=feat_channels,
            num_queries=num_queries,
            **kwargs,
        )


@MODELS.register_module()
class NPRMaskFormerHead(_NPRMaskHead, MaskFormerHead):
    """mmseg's ``MaskFormerHead``, which needs mmdet, with NPR of its queries.

    Arguments are those of the head, and ``loss_npr``, those of ``NPRLoss``.
    """

    queries_of = 'transformer_decoder'


@MODELS.register_module()
class NPRMask2FormerHead(_NPRMaskHead, Mask2FormerHead):
    """mmseg's ``Mask2FormerHead``, which needs mmdet, with NPR of its queries.

    Arguments are those of the head, and ``loss_npr``, those of ``NPRLoss``.
    """

    queries_of = 'transformer_decoder.post_norm'  # the decoder itself is never called
