"""Segmentation of images by any words, for use in other programs."""

from .inferencer import PGSegInferencer
from .results import Segmentation, Segmentations
from .words import parse_words

__all__ = ['PGSegInferencer', 'Segmentation', 'Segmentations', 'parse_words']
