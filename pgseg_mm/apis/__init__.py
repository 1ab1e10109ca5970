"""Segmentation of images by any words, for use in other programs."""

from pgseg_mm.text.words import parse_words

from .inferencer import PGSegInferencer
from .results import Segmentation, Segmentations

__all__ = ['PGSegInferencer', 'Segmentation', 'Segmentations', 'parse_words']
