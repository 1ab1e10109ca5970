from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .mlp import MLP, TokenMLP
from .reconstruction import Moments, ReconstructionMLP
from .transformer_block import CrossAttentionBlock, TransformerBlock, TransformerBlocks

PROTOTYPE_SOURCES = ('input', 'blocks')
"""What NPR's prototypes are clusters of: tokens that enter a stage, or that leave its blocks."""


class GroupingOutput(NamedTuple):
    """What a grouping block makes of its tokens."""

    tokens: Tensor
    """(B, G, C_out), the new tokens."""
    assignment: Tensor
    """(B, G, N), soft assignment, normalised over groups."""
    centres: Tensor
    """(B, G, C), group centres, which NPR supervises."""
    pooling: Tensor
    """(B, G, N), the assignment that pooled the tokens: hard, with its noise, or soft."""


class StageOutput(NamedTuple):
    """What a stage hands on. Fields behind ``group_tokens`` are None where there are no groups."""

    tokens: Tensor
    group_tokens: Tensor | None = None
    assignment: Tensor | None = None
    centres: Tensor | None = None
    prototypes: Tensor | None = None
    block_tokens: Tensor | None = None
    """(B, N, C), tokens as they left the blocks, without gradient, if they are to be clustered."""
    pooling: Tensor | None = None
    """(B, G, N), the assignment that pooled the tokens, of a stage that is asked to keep it."""


class AssignmentOptions(NamedTuple):
    """How tokens choose their groups."""

    gumbel: bool = True
    """Whether training adds Gumbel noise to the hard assignment."""
    scale: float = 1.0
    """Factor of the assignment's logits, 1 in the published models. At the published initialisation
    the logits shrink with the width, and Gumbel noise drowns those of a small model in training but
    not in evaluation."""
    hard: bool = True
    """Whether a token is pooled by one group alone, as published. ``False`` pools it by the soft
    assignment, in training and evaluation and without noise."""


def hard_assignment(logits: Tensor, noise: bool) -> Tensor:
    """One group for each token, with the gradient of the soft assignment (straight-through).

    Args:
        logits: (B, G, N).
        noise: Whether Gumbel noise (temperature 1) is added before the choice.

    Returns:
        (B, G, N), one-hot over groups.
    """
    if noise:
        return F.gumbel_softmax(logits.float(), tau=1, hard=True, dim=1).to(logits.dtype)
    soft = logits.softmax(dim=1)
    hard = torch.zeros_like(soft).scatter_(1, soft.argmax(dim=1, keepdim=True), 1)
    return hard + (soft - soft.detach())


class TokenAssignment(nn.Module):
    """Assigns tokens to groups with one full-width head and pools them (docs/method.md, 1.4).

    Args:
        embed_dims: Channels C.
        options: Noise, scale and kind of the assignment.
    """

    def __init__(self, embed_dims: int, options: AssignmentOptions) -> None:
        super().__init__()
        self.scale = options.scale * embed_dims**-0.5
        self.gumbel = options.gumbel
        self.hard = options.hard
        self.q_proj = nn.Linear(embed_dims, embed_dims)
        self.k_proj = nn.Linear(embed_dims, embed_dims)
        self.v_proj = nn.Linear(embed_dims, embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, centres: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pool (B, N, C) tokens by group.

        Returns:
            Pooled tokens (B, G, C), without the centres, soft assignment (B, G, N), and the
            assignment that pooled them.
        """
        logits = self.q_proj(centres) @ self.k_proj(x).transpose(1, 2) * self.scale
        soft = logits.softmax(dim=1)
        pooling = hard_assignment(logits, self.training and self.gumbel) if self.hard else soft
        return self.proj(self._pool(pooling, x)), soft, pooling

    def _pool(self, assignment: Tensor, x: Tensor) -> Tensor:
        """A (W_v x) / (1 + sum of A): pooled before the projection, there are fewer tokens."""
        count = assignment.sum(dim=2, keepdim=True)
        values = F.linear(assignment @ x, self.v_proj.weight) + count * self.v_proj.bias
        return values / (1 + count)


class GroupingBlock(nn.Module):
    """Turns tokens and group tokens into group centres, an assignment and new tokens.

    Args:
        embed_dims: Channels C of both inputs.
        out_dims: Channels of the new tokens.
        num_heads: Heads of the cross-attention.
        num_group_tokens: Number of incoming group tokens.
        num_output_groups: Number of groups G.
        assignment: How tokens choose their groups.
        mlp_ratio: Hidden width of the MLPs over C.
    """

    def __init__(
        self,
        embed_dims: int,
        out_dims: int,
        *,
        num_heads: int,
        num_group_tokens: int,
        num_output_groups: int,
        assignment: AssignmentOptions,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.norm_tokens = nn.LayerNorm(embed_dims)
        self.norm_x = nn.LayerNorm(embed_dims)
        self.mlp_inter = TokenMLP(num_group_tokens, embed_dims // 2, num_output_groups)
        self.norm_post_tokens = nn.LayerNorm(embed_dims)
        self.pre_assign_attn = CrossAttentionBlock(embed_dims, num_heads, mlp_ratio)
        self.assign = TokenAssignment(embed_dims, assignment)
        self.norm_new_x = nn.LayerNorm(embed_dims)
        self.mlp_channels = MLP(embed_dims, int(embed_dims * mlp_ratio), out_dims)
        self.reduction: nn.Module = nn.Identity()
        if out_dims != embed_dims:
            self.reduction = nn.Sequential(
                nn.LayerNorm(embed_dims), nn.Linear(embed_dims, out_dims, bias=False)
            )

    def forward(self, x: Tensor, group_tokens: Tensor) -> GroupingOutput:
        """Group (B, N, C) tokens by (B, G_in, C) group tokens."""
        x = self.norm_x(x)
        queries = self.norm_post_tokens(self.mlp_inter(self.norm_tokens(group_tokens)))
        centres = self.pre_assign_attn(queries, x)
        pooled, assignment, pooling = self.assign(centres, x)
        new_x = pooled + centres
        new_x = self.reduction(new_x) + self.mlp_channels(self.norm_new_x(new_x))
        return GroupingOutput(new_x, assignment, centres, pooling)


class EncoderStage(nn.Module):
    """Transformer blocks over tokens and group tokens, then grouping where there are groups.

    Args:
        embed_dims: Channels C.
        out_dims: Channels of the tokens that leave the stage.
        num_heads: Number of attention heads.
        drop_path_rates: Drop path rate of each block; their number is the stage's depth.
        assignment: How tokens choose their groups, where there are any.
        num_group_tokens: Number of group tokens; 0 makes a stage without grouping.
        num_output_groups: Number of groups G.
        prev_group_tokens: Number and width of the previous stage's group tokens, if there are any.
        mlp_ratio: Hidden width of the MLPs over C.
        drop_rate: Dropout probability in the blocks.
        prototypes: Config of the prototypes, with ``hidden_channels`` of the reconstruction's
            projection; ``None`` for none. ``source='blocks'`` makes those that NPR compares with
            groups from the tokens that leave the blocks, ``regions=True`` from each region of a
            joined image by itself, and ``shared=True`` from all images together; the reconstruction
            stays one of the image's own tokens that enter the stage. NPR's prototypes then have a
            ``mu`` of their own.
        with_cp: Whether to recompute activations in the backward pass instead of keeping them.
    """

    keeps_pooling = False
    """Whether the output has the assignment that pooled the tokens."""

    def __init__(
        self,
        embed_dims: int,
        out_dims: int,
        *,
        num_heads: int,
        drop_path_rates: list[float],
        assignment: AssignmentOptions,
        num_group_tokens: int = 0,
        num_output_groups: int = 0,
        prev_group_tokens: tuple[int, int] | None = None,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        prototypes: dict | None = None,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.blocks = TransformerBlocks(
            *(
                TransformerBlock(
                    embed_dims,
                    num_heads,
                    mlp_ratio=mlp_ratio,
                    drop_rate=drop_rate,
                    drop_path_rate=rate,
                )
                for rate in drop_path_rates
            ),
            with_cp=with_cp,
        )
        self.group_projector: nn.Module | None = None
        self.grouping: GroupingBlock | None = None
        self.prototypes: Any = None  # NonLearnablePrototypes, or what has its methods
        self.npr_prototypes: Any = None  # those that groups are compared with, if others
        self.prototypes_of_blocks = self.prototypes_of_regions = False
        if not num_group_tokens:
            return
        self.group_token = nn.Parameter(torch.zeros(1, num_group_tokens, embed_dims))
        if prev_group_tokens:
            self.group_projector = _group_projector(
                *prev_group_tokens, num_group_tokens, embed_dims
            )
        else:
            nn.init.trunc_normal_(self.group_token, std=0.02)
        self.grouping = GroupingBlock(
            embed_dims,
            out_dims,
            num_heads=num_heads,
            num_group_tokens=num_group_tokens,
            num_output_groups=num_output_groups,
            assignment=assignment,
            mlp_ratio=mlp_ratio,
        )
        if prototypes is not None:
            self._make_prototypes(prototypes, num_output_groups, embed_dims)

    def _make_prototypes(self, prototypes: dict, number: int, embed_dims: int) -> None:
        # mmseg's registry, also when the backbone stands in a config of another library
        cfg = {
            '_scope_': 'mmseg',
            'type': 'NonLearnablePrototypes',
            **prototypes,
            'num_prototypes': number,
            'embed_dims': embed_dims,
        }
        hidden = cfg.pop('hidden_channels', 4096)
        source = cfg.pop('source', 'input')
        if source not in PROTOTYPE_SOURCES:
            raise ValueError(
                f'source of the prototypes must be one of {PROTOTYPE_SOURCES}, got {source!r}'
            )
        self.prototypes_of_blocks = source == 'blocks'
        self.prototypes_of_regions = bool(cfg.pop('regions', False))
        shared = cfg.pop('shared', False)
        if shared and self.prototypes_of_regions:
            raise ValueError(
                'prototypes are either shared by all images or those of regions; set '
                'shared=False or regions=False'
            )
        self.prototypes = MODELS.build(cfg)
        self.reconstruction = ReconstructionMLP(embed_dims, embed_dims, hidden)
        if self.prototypes_of_blocks or self.prototypes_of_regions or shared:
            self.npr_prototypes = MODELS.build(dict(cfg, shared=True) if shared else cfg)

    def forward(self, x_in: Tensor, prev_group_tokens: Tensor | None = None) -> StageOutput:
        """Run the stage.

        Args:
            x_in: Tokens (B, N, C).
            prev_group_tokens: Group tokens as they left the previous stage's blocks.

        Returns:
            The new tokens (B, G, C_out), the group tokens, the assignment (B, G, N), centres and
            prototypes (B, G, C); or (B, N, C) alone for a stage without grouping.
        """
        if self.grouping is None:
            return StageOutput(self.blocks(x_in))
        group_tokens = self.group_token.expand(x_in.shape[0], -1, -1)
        if self.group_projector is not None:
            group_tokens = group_tokens + self.group_projector(prev_group_tokens)
        x = self.blocks(torch.cat([x_in, group_tokens], dim=1))
        x, group_tokens = x.split([x_in.shape[1], self.group_token.shape[1]], dim=1)
        block_tokens = x.detach() if self.prototypes_of_blocks else None
        prototypes = None
        if self.prototypes is not None:
            prototypes, mixture = self.prototypes(x_in)
            x = x + self.reconstruction(mixture.to(x_in.dtype))
        if self.with_cp and torch.is_grad_enabled():
            grouped = checkpoint(self.grouping, x, group_tokens, use_reentrant=False)
        else:
            grouped = self.grouping(x, group_tokens)
        return StageOutput(
            grouped.tokens,
            group_tokens,
            grouped.assignment,
            grouped.centres,
            prototypes,
            block_tokens,
            grouped.pooling if self.keeps_pooling else None,
        )

    def compare_with(
        self, out: StageOutput, x_in: Tensor, shares: Tensor | None = None
    ) -> StageOutput:
        """Give a whole batch's output the prototypes that NPR is to compare its groups with.

        Args:
            out: What :meth:`forward` returned, for all images of this rank's batch.
            x_in: The tokens (B, N, C) that it was called with.
            shares: (B, R, N), the share of each token in each region of an image; ``None`` for
                whole images.

        Returns:
            The output itself, unless the config asks for prototypes of another source, of regions
            or of all images.
        """
        if self.npr_prototypes is None:
            return out
        tokens = x_in if out.block_tokens is None else out.block_tokens
        regions = () if shares is None or not self.prototypes_of_regions else (None, shares)
        prototypes = self.npr_prototypes(tokens.detach(), *regions).prototypes
        return out._replace(prototypes=prototypes, block_tokens=None)

    def announce(self, pieces: Sequence[Tensor] | None) -> None:
        """Prepare for a batch in pieces, or for batches in one piece again.

        Args:
            pieces: Tokens (B_i, N, C) of the pieces that :meth:`forward` gets next; ``None`` for
                batches in one piece.
        """
        if self.prototypes is None or not self.training:
            return
        moments = None
        if pieces is not None:
            mixtures = ((x, self.prototypes.cluster(x).reconstruction) for x in pieces)
            moments = reduce(
                add, (Moments.of(mixture.to(x.dtype).flatten(0, 1)) for x, mixture in mixtures)
            )
        self.reconstruction.expect(moments)


def _group_projector(prev_tokens: int, prev_dims: int, tokens: int, dims: int) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.LayerNorm(prev_dims),
        TokenMLP(prev_tokens, prev_dims // 2, tokens),
    ]
    if prev_dims != dims:
        layers += [nn.LayerNorm(prev_dims), nn.Linear(prev_dims, dims, bias=False)]
    return nn.Sequential(*layers)
