from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mmseg.structures import SegDataSample
from torch import Tensor, nn

from .query_npr import QueryNPR


@contextmanager
def caught_outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a module returns within the context."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, args, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


class NPRHeadMixin:
    """Adds ``loss_npr`` to a head that has queries, and changes nothing else of it.

    A head gets it by a class of its own, with the mixin first::

        @MODELS.register_module()
        class NPRMaskFormerHead(NPRHeadMixin, MaskFormerHead): ...

    It fits any head with ``loss(inputs, data_samples, train_cfg)`` in which some module returns
    queries (B, G, C), or those of L decoder layers (L, B, G, C).

    Args:
        query_module: Name of the module within the head that returns the queries.
        npr: Arguments of :class:`QueryNPR`.
        feature_index: Which of the head's inputs the prototypes are estimated from.
        **kwargs: Arguments of the head.
    """

    def __init__(self, query_module: str, npr: dict, feature_index: int = -1, **kwargs) -> None:
        super().__init__(**kwargs)
        self.get_submodule(query_module)
        self.query_module = query_module
        self.feature_index = feature_index
        self.npr = QueryNPR(**npr)

    def loss(
        self, inputs: Sequence[Tensor], batch_data_samples: list[SegDataSample], train_cfg: dict
    ) -> dict[str, Tensor]:
        """The head's losses, and ``loss_npr``.

        Args:
            inputs: Feature maps (B, C, H, W) of the backbone or the neck.
            batch_data_samples: Samples with their truth.
            train_cfg: The model's ``train_cfg``.

        Raises:
            RuntimeError: If the module that should return the queries did not run.
        """
        with caught_outputs(self.get_submodule(self.query_module)) as outputs:
            losses = super().loss(inputs, batch_data_samples, train_cfg)
        if not outputs:
            raise RuntimeError(
                f'{self.query_module!r} of {type(self).__name__} did not run in the loss, so it '
                'gave no queries; name another module as query_module'
            )
        losses['loss_npr'] = self.npr(inputs[self.feature_index], outputs[-1])
        return losses
