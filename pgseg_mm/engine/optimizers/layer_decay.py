from functools import partial

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BackboneLayerDecay:
    """mmpretrain's layer-wise learning-rate decay for any model with a ``backbone``.

    mmpretrain's ``LearningRateDecayOptimWrapperConstructor`` asks the model how deep a parameter
    lies. Its classifiers pass that on to their backbone; mmseg's segmentors do not. Here the
    backbone itself is asked. Rates of what is not in the backbone, such as a neck or a head, are
    not lowered.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper.
        paramwise_cfg: What mmpretrain's constructor takes: ``layer_decay_rate``,
            ``norm_decay_mult``, ``bias_decay_mult``, ``flat_decay_mult`` and ``custom_keys`` with
            ``decay_mult``.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
            dict(
                type='LearningRateDecayOptimWrapperConstructor',
                _scope_='mmpretrain',
                optim_wrapper_cfg=optim_wrapper_cfg,
                paramwise_cfg=paramwise_cfg,
            )
        )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer of a model.

        Raises:
            TypeError: If the model has no backbone that tells the depth of its parameters.
        """
        module = model.module if is_model_wrapper(model) else model
        backbone = getattr(module, 'backbone', None)
        depth = getattr(backbone, 'get_layer_depth', None)
        if depth is None:
            raise TypeError(
                'BackboneLayerDecay needs a model whose backbone has get_layer_depth(), as those '
                f'of PGSegViT and of mmpretrain have; {type(module).__name__} has a backbone of '
                f'type {type(backbone).__name__}'
            )
        self.constructor.add_params = partial(
            self.constructor.add_params, get_layer_depth=partial(depth, prefix='backbone.')
        )
        return self.constructor(model)
