"""PGSeg's models, registered in mmseg's MODELS."""

from .backbones import PGSegViT
from .classifiers import PGSegClassifier
from .data_preprocessor import PGSegDataPreProcessor
from .decode_heads import PGSegHead
from .layers import (
    GroupFeatures,
    NonLearnablePrototypes,
    ReleaseTextPrototypes,
    TextPrototypes,
)
from .losses import ImageTextContrastiveLoss, MultiLabelContrastiveLoss, NPRLoss
from .segmentors import PGSeg, PGSegTTAModel
from .text_encoders import OpenCLIPTextEncoder, PGSegTextTransformer, TextFeatures

__all__ = [
    'GroupFeatures',
    'ImageTextContrastiveLoss',
    'MultiLabelContrastiveLoss',
    'NPRLoss',
    'NonLearnablePrototypes',
    'OpenCLIPTextEncoder',
    'PGSeg',
    'PGSegClassifier',
    'PGSegDataPreProcessor',
    'PGSegHead',
    'PGSegTTAModel',
    'PGSegTextTransformer',
    'PGSegViT',
    'ReleaseTextPrototypes',
    'TextFeatures',
    'TextPrototypes',
]
