"""PGSeg's models, registered in mmseg's MODELS."""

from .backbones import CLIPDenseViT, OpenCLIPGroupViT, PGSegViT, ProxyCLIPViT
from .batch_augments import MosaicImages, PasteImages, RandomBatchAugment
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
from .losses import (
    ImageTextContrastiveLoss,
    LateInteractionLoss,
    MultiLabelContrastiveLoss,
    NPRLoss,
    RegionTextContrast,
)
from .retrievers import PGSegRetriever
from .segmentors import OpenVocabSegmentor, PGSeg, PGSegTTAModel
from .text_encoders import OpenCLIPTextEncoder, PGSegTextTransformer, TextFeatures

__all__ = [
    'CLIPDenseViT',
    'ClusterGrouping',
    'DenseCLIPHead',
    'GroupFeatures',
    'ImageTextContrastiveLoss',
    'LearnedGrouping',
    'MosaicImages',
    'LateInteractionLoss',
    'MultiLabelContrastiveLoss',
    'NPRLoss',
    'NonLearnablePrototypes',
    'OpenCLIPGroupViT',
    'OpenCLIPTextEncoder',
    'OpenVocabSegmentor',
    'PGSeg',
    'PGSegClassifier',
    'PGSegDataPreProcessor',
    'PGSegHead',
    'PGSegRetriever',
    'PGSegTTAModel',
    'PGSegTextTransformer',
    'PGSegViT',
    'PasteImages',
    'PrototypeRefinement',
    'ProxyCLIPViT',
    'RandomBatchAugment',
    'RegionTextContrast',
    'ReleaseTextPrototypes',
    'TextFeatures',
    'TextPrototypes',
]
