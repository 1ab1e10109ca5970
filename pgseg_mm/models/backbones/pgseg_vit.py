import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.utils import to_2tuple
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers import (
    AssignmentOptions,
    EncoderStage,
    GroupFeatures,
    ProjectionMLP,
    StageOutput,
    resize_position_embedding,
)
from ..layers.group_features import patch_assignment
from ..layers.micro_batches import in_micro_batches
from ..layers.position_embedding import fit_position_embedding
from ..layers.regions import RegionLayout, group_shares


def _per_stage(value: int | Sequence[int], num_stages: int, name: str) -> list[int]:
    values = [value] * num_stages if isinstance(value, int) else list(value)
    if len(values) != num_stages:
        raise ValueError(
            f'{name} must be one number or one for each of the {num_stages} stages in depths, '
            f'got {value}'
        )
    return values


def _patch_grid(img_size: int | tuple[int, int], patch_size: int) -> tuple[int, int]:
    height, width = to_2tuple(img_size)
    if height < patch_size or width < patch_size:
        raise ValueError(f'img_size {img_size} is smaller than patch_size {patch_size}')
    return height // patch_size, width // patch_size


def _make_stages(
    dims: Sequence[int],
    heads: Sequence[int],
    depths: Sequence[int],
    *,
    num_group_tokens: Sequence[int],
    num_output_groups: Sequence[int],
    drop_path_rate: float,
    **shared: Any,
) -> nn.ModuleList:
    """The stages, from what each has of its own and what they share."""
    last = len(depths) - 1
    rates = torch.linspace(0, drop_path_rate, sum(depths)).tolist()
    return nn.ModuleList(
        EncoderStage(
            dims[i],
            dims[min(i + 1, last)],
            num_heads=heads[i],
            drop_path_rates=rates[sum(depths[:i]) : sum(depths[: i + 1])],
            num_group_tokens=num_group_tokens[i],
            num_output_groups=num_output_groups[i] if i < last else 0,
            prev_group_tokens=(num_group_tokens[i - 1], dims[i - 1]) if i else None,
            **shared,
        )
        for i in range(len(depths))
    )


@MODELS.register_module()
class PGSegViT(BaseModule):
    """Vision transformer that groups its patches in stages, guided by prototypes.

    Image encoder of `PGSeg <https://arxiv.org/abs/2310.19001>`_; without prototypes that of
    `GroupViT <https://arxiv.org/abs/2202.11094>`_. All stages but the last group their tokens.
    The defaults are the published size.

    Args:
        img_size: Image size in pixels, one number or (height, width), that the position embedding
            is made for. Images of other sizes are accepted: the embedding is resized, and pixels
            on the right and below that do not fill a patch are not seen.
        patch_size: Side of a patch in pixels.
        in_channels: Image channels.
        embed_dims: Channels C, one number or one for each stage.
        depths: Blocks of each stage; one to three grouping stages and a last one without groups.
        num_heads: Attention heads, one number or one for each stage.
        num_group_tokens: Learned group tokens of each stage, 0 for the last one.
        num_output_groups: Groups G of each grouping stage.
        mlp_ratio: Hidden width of the MLPs over C.
        drop_rate: Dropout probability, after the position embedding and in the blocks.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0.
        prototypes: Config of the non-learnable prototypes: arguments of
            :class:`NonLearnablePrototypes` (or another registered ``type`` of its interface) and
            ``hidden_channels`` (4096) of the projection that adds their reconstruction to the
            tokens. ``None`` makes a GroupViT. ``source='blocks'``, ``shared=True`` and
            ``regions=True`` change the prototypes that NPR compares with the groups; see
            :class:`EncoderStage`.
        gumbel, assign_scale, hard_assign: The fields of :class:`AssignmentOptions`.
        norm_eval: Whether the batch norm of the reconstruction's projection keeps its statistics in
            training, too, so that an image's groups do not depend on the rest of its batch.
        frozen_stages: How many stages, with the patch embedding, are not trained and stay in
            evaluation mode: -1 freezes nothing, 0 the patch embedding alone, all stages the last
            norm, too.
        with_cp: Whether to recompute activations in the backward pass to save memory.
        out_type: ``'featmap'`` for a tuple of maps at patch resolution, which any mmseg head takes,
            or ``'groups'`` for :class:`GroupFeatures`.
        out_indices: Stages to return maps of; all by default.
        init_cfg: Config of mmengine's weight initialisation, e.g. of type ``'Pretrained'``.

    Raises:
        ValueError: If the arguments do not fit each other.
    """

    OUT_TYPES = ('featmap', 'groups')

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        embed_dims: int | Sequence[int] = 384,
        depths: Sequence[int] = (6, 3, 3),
        num_heads: int | Sequence[int] = 6,
        num_group_tokens: Sequence[int] = (64, 8, 0),
        num_output_groups: Sequence[int] = (64, 8),
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        prototypes: dict | None = dict(type='NonLearnablePrototypes', momentum=0.9),  # noqa: B006, C408
        gumbel: bool = True,
        assign_scale: float = 1.0,
        norm_eval: bool = False,
        frozen_stages: int = -1,
        with_cp: bool = False,
        out_type: str = 'featmap',
        out_indices: int | Sequence[int] | None = None,
        init_cfg: dict | list[dict] | None = None,
        hard_assign: bool = True,
    ) -> None:
        super().__init__(init_cfg)
        num_stages = len(depths)
        self._check_stages(depths, num_group_tokens, num_output_groups)
        self._check_modes(out_type, frozen_stages, num_stages)
        self.norm_eval = norm_eval
        self.frozen_stages = frozen_stages
        self.out_type = out_type
        self.out_indices = self._check_out_indices(out_indices, num_stages)
        dims = _per_stage(embed_dims, num_stages, 'embed_dims')
        self.embed_dims = dims[-1]
        self.in_channels = in_channels
        self.patch_size = patch_size
        self.grid_size = _patch_grid(img_size, patch_size)

        self.patch_embed = nn.Conv2d(in_channels, dims[0], patch_size, patch_size)
        self.patch_norm = nn.LayerNorm(dims[0])
        self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(self.grid_size), dims[0]))
        self.drop = nn.Dropout(drop_rate)

        self.stages = _make_stages(
            dims,
            _per_stage(num_heads, num_stages, 'num_heads'),
            depths,
            num_group_tokens=num_group_tokens,
            num_output_groups=num_output_groups,
            drop_path_rate=drop_path_rate,
            assignment=AssignmentOptions(gumbel, assign_scale, hard_assign),
            mlp_ratio=mlp_ratio,
            drop_rate=drop_rate,
            prototypes=prototypes,
            with_cp=with_cp,
        )
        self.norm = nn.LayerNorm(dims[-1])
        self._reset_parameters()
        self._register_load_state_dict_pre_hook(self._resize_loaded_pos_embed)
        self._freeze()

    @staticmethod
    def _check_stages(
        depths: Sequence[int], num_group_tokens: Sequence[int], num_output_groups: Sequence[int]
    ) -> None:
        num_stages = len(depths)
        if not 2 <= num_stages <= 4:
            raise ValueError(
                'depths must name one to three grouping stages and a last one without groups, '
                f'got {tuple(depths)}'
            )
        if len(num_group_tokens) != num_stages or len(num_output_groups) != num_stages - 1:
            raise ValueError(
                f'{num_stages} stages need {num_stages} num_group_tokens and {num_stages - 1} '
                f'num_output_groups, got {tuple(num_group_tokens)} and {tuple(num_output_groups)}'
            )
        if num_group_tokens[-1] != 0 or min(*num_group_tokens[:-1], *num_output_groups) < 1:
            raise ValueError(
                'num_group_tokens must be positive and 0 for the last stage, and '
                'num_output_groups positive, got '
                f'{tuple(num_group_tokens)} and {tuple(num_output_groups)}'
            )

    @classmethod
    def _check_modes(cls, out_type: str, frozen_stages: int, num_stages: int) -> None:
        if out_type not in cls.OUT_TYPES:
            raise ValueError(f'out_type must be one of {cls.OUT_TYPES}, got {out_type!r}')
        if not -1 <= frozen_stages <= num_stages:
            raise ValueError(
                f'frozen_stages must be -1 (none) to {num_stages} (all stages), got {frozen_stages}'
            )

    @staticmethod
    def _check_out_indices(
        out_indices: int | Sequence[int] | None, num_stages: int
    ) -> tuple[int, ...]:
        if out_indices is None:
            return tuple(range(num_stages))
        indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        if not indices or not all(-num_stages <= i < num_stages for i in indices):
            raise ValueError(
                f'out_indices must name stages 0 to {num_stages - 1}, got {out_indices}'
            )
        return tuple(i % num_stages for i in indices)

    def _reset_parameters(self) -> None:
        """Initialise as published (docs/method.md, 1.6); projections keep torch's default."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        projections = {
            layer
            for module in self.modules()
            if isinstance(module, ProjectionMLP)
            for layer in module.modules()
        }
        for module in self.modules():
            if isinstance(module, nn.Linear) and module not in projections:
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        modules = [self.patch_embed, self.patch_norm, self.drop, *self.stages[: self.frozen_stages]]
        return [*modules, self.norm] if self.frozen_stages == len(self.stages) else modules

    def _freeze(self) -> None:
        self.pos_embed.requires_grad_(self.frozen_stages < 0)
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'PGSegViT':
        """Switch the mode; what ``frozen_stages`` and ``norm_eval`` name stays in evaluation."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):  # frameworks convert them
                    module.eval()
        return self

    def _resize_loaded_pos_embed(self, state_dict: dict, prefix: str, *args) -> None:
        """Fit the position embedding of a checkpoint trained at another image size."""
        loaded = state_dict.get(f'{prefix}pos_embed')
        if loaded is not None:
            state_dict[f'{prefix}pos_embed'] = fit_position_embedding(loaded, self.grid_size)

    def forward(
        self,
        images: Tensor,
        micro_batch_size: int | None = None,
        regions: RegionLayout | None = None,
    ) -> tuple[Tensor, ...] | GroupFeatures:
        """Encode images.

        Args:
            images: (B, in_channels, H, W), normalised.
            micro_batch_size: If given, a training batch goes through each stage so many images at a
                time, and again in the backward pass, to save memory. Prototypes and batch norm see
                the whole batch nevertheless.
            regions: Regions of joined images, for prototypes that are made in each of them.

        Returns:
            Maps (B, C, H // patch_size, W // patch_size) of the stages in ``out_indices``, each a
            stage's group features spread over the patches by the soft assignment; or
            :class:`GroupFeatures`.

        Raises:
            ValueError: If the images have another shape than expected.
        """
        size = micro_batch_size if self.training else None
        x, grid_size = in_micro_batches(self._embed_patches, size, images)
        outs: list[StageOutput] = []
        group_tokens = None
        for stage in self.stages:
            assert isinstance(stage, EncoderStage)
            out = self._run_stage(stage, size, x, group_tokens)
            if stage.npr_prototypes is not None:
                out = stage.compare_with(out, x, self._token_shares(outs, grid_size, regions))
            x, group_tokens = out.tokens, out.group_tokens
            outs.append(out)
        tokens = self.norm(x)
        groups = GroupFeatures(
            tokens,
            tuple(out.assignment for out in outs if out.assignment is not None),
            tuple(out.centres for out in outs if out.centres is not None),
            tuple(out.prototypes for out in outs if out.prototypes is not None),
            grid_size,
        )
        if self.out_type == 'groups':
            return groups
        stage_tokens = [out.tokens for out in outs[:-1]] + [tokens]
        return tuple(self._spread(stage_tokens[i], groups, i) for i in self.out_indices)

    @staticmethod
    def _run_stage(
        stage: EncoderStage, size: int | None, x: Tensor, group_tokens: Tensor | None
    ) -> StageOutput:
        if size is None or len(x) <= size or stage.prototypes is None:
            stage.announce(None)
            return in_micro_batches(stage, size, x, group_tokens)
        stage.announce(x.detach().split(size))
        with stage.prototypes.moving_once():
            return in_micro_batches(stage, size, x, group_tokens)

    @property
    def prototypes_of_regions(self) -> bool:
        """Whether the regions of joined images have prototypes of their own."""
        return any(stage.prototypes_of_regions for stage in self.stages)

    def _token_shares(
        self, before: list[StageOutput], grid_size: tuple[int, int], regions: RegionLayout | None
    ) -> Tensor | None:
        """Share of each token that a stage gets in each region, (B, R, N), after other stages."""
        if regions is None or regions.num_regions == 1:
            return None
        shares = regions.covered(grid_size, self.patch_size).shares(grid_size)
        if not before:
            return shares.flatten(1).expand(len(regions.captions), -1, -1)
        assignments = [out.assignment.detach() for out in before if out.assignment is not None]
        return group_shares(patch_assignment(assignments, grid_size), shares)

    def _embed_patches(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f'expected images of shape (B, {self.in_channels}, H, W), got '
                f'{tuple(images.shape)}; set in_channels or convert the images'
            )
        if min(images.shape[2:]) < self.patch_size:
            raise ValueError(
                f'images must be at least one patch of {self.patch_size} pixels high and wide, '
                f'got {tuple(images.shape[2:])}; resize them'
            )
        x = self.patch_embed(images)
        grid_size = (x.shape[2], x.shape[3])
        x = self.patch_norm(x.flatten(2).transpose(1, 2))
        x = x + resize_position_embedding(self.pos_embed, self.grid_size, grid_size)
        return self.drop(x), grid_size

    def _spread(self, tokens: Tensor, groups: GroupFeatures, stage: int) -> Tensor:
        """Spread (B, G, C) tokens of a stage's groups over the patches: (B, C, h, w)."""
        assignment = groups.patch_assignment(min(stage, len(self.stages) - 2))
        return torch.einsum('bgc,bghw->bchw', tokens, assignment)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter, for learning rates that decay from layer to layer.

        Patch and position embeddings have depth 0, the blocks of all stages 1, 2, ... in order.
        What comes before the blocks of a stage (group tokens and their projector) counts with the
        first of them, what comes behind (reconstruction and grouping) with the last. The last depth
        is that of the final norm and of whatever follows the backbone.

        Args:
            param_name: Name of the parameter in the whole model.
            prefix: What the names of this backbone's parameters begin with there, such as
                ``'backbone.'``; a parameter without it is not of this backbone.

        Returns:
            The depth, and the number of depths: that of all blocks, and two.
        """
        depths = [len(stage.blocks) for stage in self.stages]  # type: ignore[arg-type]
        num_depths = sum(depths) + 2
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix) or name.startswith('norm.'):
            return num_depths - 1, num_depths
        if not name.startswith('stages.'):
            return 0, num_depths
        _, stage, part, *rest = name.split('.')
        before = sum(depths[: int(stage)])
        if part == 'blocks':
            return before + int(rest[0]) + 1, num_depths
        if part in ('group_token', 'group_projector'):
            return before + 1, num_depths
        return before + depths[int(stage)], num_depths
