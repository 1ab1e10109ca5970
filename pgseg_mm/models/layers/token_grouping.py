import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from .clustering import check_clustering, soft_clusters
from .grouping import AssignmentOptions, EncoderStage, StageOutput
from .precision import at_least_float32
from .projection import ProjectionMLP


def cluster_grid(
    x: Tensor,
    grid_size: tuple[int, int],
    seed_grid: tuple[int, int],
    scale: float = 20.0,
    num_iters: int = 10,
) -> tuple[Tensor, Tensor]:
    """Cluster the tokens of a grid softly, starting from the means of a coarse grid's cells.

    The clustering is :func:`soft_clusters`, on tokens from which the image's mean is taken and
    which have one length. There is no gradient.

    Args:
        x: Tokens (B, N, C).
        grid_size: Their grid (h, w) with h * w = N.
        seed_grid: Rows and columns of the coarse grid; their product is the number of clusters G.
        scale: Length of the tokens, which is the inverse temperature of the assignment.
        num_iters: Rounds of clustering.

    Returns:
        The cluster centres (B, G, C), and the soft assignment (B, G, N), which sums to 1 over G.
    """
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        x = at_least_float32(x)
        x = F.normalize(x - x.mean(dim=1, keepdim=True), dim=-1)
        grid = x.transpose(1, 2).unflatten(2, grid_size)
        seeds = F.adaptive_avg_pool2d(grid, seed_grid).flatten(2).transpose(1, 2)
        x = scale * x
        mu = soft_clusters(x, F.normalize(seeds, dim=-1), num_iters).prototypes
        return mu, (mu @ x.transpose(1, 2)).softmax(dim=1)


@MODELS.register_module()
class ClusterGrouping(nn.Module):
    """Groups the tokens of an image by soft clustering; nothing is learned.

    The clustering is that of :class:`NonLearnablePrototypes`; see :func:`cluster_grid`.

    Args:
        embed_dims: Channels C of the tokens.
        seed_grid: Rows and columns of the coarse grid; their product is the number of groups G.
        scale: Length of the tokens, which is the inverse temperature of the assignment.
        num_iters: Rounds of clustering.

    Raises:
        ValueError: If ``seed_grid``, ``scale`` or ``num_iters`` is not positive, or there are more
            than 65 536 groups or 1000 rounds.
    """

    with_tokens = False
    """Whether it makes group tokens of its own."""

    def __init__(
        self,
        embed_dims: int,
        seed_grid: tuple[int, int] = (3, 3),
        scale: float = 20.0,
        num_iters: int = 10,
    ) -> None:
        super().__init__()
        if min(*seed_grid) < 1 or not scale > 0:
            raise ValueError(
                f'seed_grid and scale must be positive, got {tuple(seed_grid)} and {scale}'
            )
        check_clustering('product of seed_grid', seed_grid[0] * seed_grid[1], num_iters)
        self.seed_grid = (seed_grid[0], seed_grid[1])
        self.scale = scale
        self.num_iters = num_iters

    def forward(self, x: Tensor, grid_size: tuple[int, int]) -> StageOutput:
        """Group (B, N, C) tokens of a grid (h, w) with h * w = N.

        Returns:
            The cluster centres (B, G, C) as tokens and as centres, and the soft assignment
            (B, G, N).
        """
        mu, assignment = cluster_grid(x, grid_size, self.seed_grid, self.scale, self.num_iters)
        return StageOutput(mu, assignment=assignment, centres=mu)


@MODELS.register_module()
class LearnedGrouping(EncoderStage):
    """PGSeg's grouping as one stage on the tokens of another encoder.

    Args:
        embed_dims: Channels C of the tokens.
        num_groups: Number of groups G.
        num_group_tokens: Number of learned group tokens.
        depth: Transformer blocks over tokens and group tokens before the grouping.
        num_heads: Number of attention heads.
        prototypes: Config of the prototypes, as :class:`PGSegViT` has it but for ``regions``;
            ``None`` for none.
        gumbel, assign_scale, hard_assign: The fields of :class:`AssignmentOptions`.
        drop_path_rate: Drop path rate of the blocks.
        with_cp: Whether to recompute activations in the backward pass to save memory.

    Raises:
        ValueError: If the prototypes are to be those of regions.
    """

    with_tokens = True
    keeps_pooling = True

    def __init__(
        self,
        embed_dims: int,
        num_groups: int = 8,
        num_group_tokens: int = 64,
        depth: int = 2,
        num_heads: int = 12,
        prototypes: dict | None = None,
        gumbel: bool = True,
        assign_scale: float = 1.0,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        hard_assign: bool = True,
    ) -> None:
        super().__init__(
            embed_dims,
            embed_dims,
            num_heads=num_heads,
            drop_path_rates=[drop_path_rate] * depth,
            assignment=AssignmentOptions(gumbel, assign_scale, hard_assign),
            num_group_tokens=num_group_tokens,
            num_output_groups=num_groups,
            prototypes=prototypes,
            with_cp=with_cp,
        )
        if self.prototypes_of_regions:
            raise ValueError(
                'the prototypes of LearnedGrouping are those of whole images; set regions=False'
            )
        self.apply(_init_linear)
        for module in self.modules():
            if isinstance(module, ProjectionMLP):  # keep torch's own, as published
                module.fc1.reset_parameters()
                module.fc2.reset_parameters()

    def forward(self, x: Tensor, grid_size: tuple[int, int]) -> StageOutput:  # type: ignore[override]
        """Group (B, N, C) tokens of a grid; see :meth:`EncoderStage.forward`."""
        return self.compare_with(super().forward(x), x)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
