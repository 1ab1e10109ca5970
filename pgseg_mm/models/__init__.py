"""PGSeg's models, registered in mmseg's MODELS."""

from .backbones import CLIPDenseViT, OpenCLIPGroupViT, PGSegViT
from .classifiers import PGSegClassifier
from .data_preprocessor import PGSegDataPreProcessor
from .decode_heads import DenseCLIPHead, PGSegHead
from .layers import (
    ClusterGrouping,
    GroupFeatures,
    LearnedGrouping,
    NonLearnablePrototypes,
    PrototypeRefinement,
    ReleaseTextPrototypes,
    TextPrototypes,
)
from .losses import ImageTextContrastiveLoss, MultiLabelContrastiveLoss, NPRLoss
from .segmentors import PGSeg, PGSegTTAModel
from .text_encoders import OpenCLIPTextEncoder, PGSegTextTransformer, TextFeatures

__all__ = [
    'CLIPDenseViT',
    'ClusterGrouping',
    'DenseCLIPHead',
    'GroupFeatures',
    'ImageTextContrastiveLoss',
    'LearnedGrouping',
    'MultiLabelContrastiveLoss',
    'NPRLoss',
    'NonLearnablePrototypes',
    'OpenCLIPGroupViT',
    'OpenCLIPTextEncoder',
    'PGSeg',
    'PGSegClassifier',
    'PGSegDataPreProcessor',
    'PGSegHead',
    'PGSegTTAModel',
    'PGSegTextTransformer',
    'PGSegViT',
    'PrototypeRefinement',
    'ReleaseTextPrototypes',
    'TextFeatures',
    'TextPrototypes',
]
