"""The parts that encoders, heads and losses are made of."""

from .attention import CrossAttention, SelfAttention
from .cluster_starts import farthest_tokens, kmeans_plus_plus
from .clustering import PrototypeOutput, balanced_logits, soft_clusters
from .group_features import GroupFeatures
from .grouping import (
    AssignmentOptions,
    EncoderStage,
    GroupingBlock,
    GroupingOutput,
    StageOutput,
    TokenAssignment,
    hard_assignment,
)
from .mlp import MLP, QuickGELU, TokenMLP
from .open_clip_tower import OpenCLIPTower
from .patch_attention import PATCH_ATTENTIONS, PatchAttention, gaussian_neighbourhood
from .position_embedding import resize_position_embedding
from .projection import ProjectionMLP
from .prototype_refinement import PrototypeRefinement
from .prototypes import NonLearnablePrototypes
from .proxy_attention import proxy_attention
from .reconstruction import Moments, ReconstructionMLP
from .sync_batch_norm import SyncBatchNorm
from .text_prototypes import ReleaseTextPrototypes, TextPairs, TextPrototypes
from .token_grouping import ClusterGrouping, LearnedGrouping, cluster_grid
from .transformer_block import CrossAttentionBlock, TransformerBlock, TransformerBlocks

__all__ = [
    'MLP',
    'PATCH_ATTENTIONS',
    'AssignmentOptions',
    'ClusterGrouping',
    'CrossAttention',
    'CrossAttentionBlock',
    'EncoderStage',
    'GroupFeatures',
    'GroupingBlock',
    'GroupingOutput',
    'LearnedGrouping',
    'Moments',
    'NonLearnablePrototypes',
    'OpenCLIPTower',
    'PatchAttention',
    'ProjectionMLP',
    'PrototypeOutput',
    'PrototypeRefinement',
    'QuickGELU',
    'ReconstructionMLP',
    'ReleaseTextPrototypes',
    'SelfAttention',
    'StageOutput',
    'SyncBatchNorm',
    'TextPairs',
    'TextPrototypes',
    'TokenAssignment',
    'TokenMLP',
    'TransformerBlock',
    'TransformerBlocks',
    'balanced_logits',
    'cluster_grid',
    'farthest_tokens',
    'gaussian_neighbourhood',
    'hard_assignment',
    'kmeans_plus_plus',
    'proxy_attention',
    'resize_position_embedding',
    'soft_clusters',
]
