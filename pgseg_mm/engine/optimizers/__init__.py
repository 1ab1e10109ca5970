"""Constructors of optimizers for mmengine's Runner."""

from .layer_decay import BackboneLayerDecay

__all__ = ['BackboneLayerDecay']
