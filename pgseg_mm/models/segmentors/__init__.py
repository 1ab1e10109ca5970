"""Segmentors."""

from .open_vocab_segmentor import OpenVocabSegmentor
from .pgseg import PGSeg
from .pgseg_tta import PGSegTTAModel

__all__ = ['OpenVocabSegmentor', 'PGSeg', 'PGSegTTAModel']
