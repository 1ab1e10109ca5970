from typing import NamedTuple

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from .projection import ProjectionMLP
from .prototypes import NonLearnablePrototypes


class TextPairs(NamedTuple):
    """Groups of an image and prototypes of its caption, to be compared by NPR (T-NPR)."""

    groups: Tensor
    """(B, G, C)."""
    prototypes: Tensor
    """(B, G, C), without gradient."""


@MODELS.register_module()
class TextPrototypes(nn.Module):
    """T-NPR: prototypes of a caption's words, and group centres mapped to the text's width.

    The prototypes are clusters of the text encoder's token features: start, words and end, no
    padding (docs/method.md, 3.5). Captions shorter than the number of prototypes have some close
    together, which the rejection of :class:`NPRLoss` handles.

    Args:
        embed_dims: Channels of the group centres.
        text_dims: Channels of the token features.
        num_prototypes: Number of prototypes, that of the last grouping stage's groups.
        loss_weight: Factor of the T-NPR loss; its schedule and temperature are those of the head's
            ``loss_npr``.
        hidden_channels: Hidden width of the projection of the centres.
        momentum: Share of the prototypes' ``mu`` that stays at an update; ``None`` keeps it.
        num_iters: Rounds of clustering.
        temperature, start, balance: Those of :class:`NonLearnablePrototypes`.
        regions: Whether each of the captions of a joined image has prototypes of its own, in equal
            numbers, instead of all their words together.
    """

    def __init__(
        self,
        embed_dims: int,
        text_dims: int,
        num_prototypes: int = 8,
        loss_weight: float = 0.01,
        hidden_channels: int = 4096,
        momentum: float | None = 0.9,
        num_iters: int = 10,
        temperature: float | None = None,
        start: str = 'mu',
        balance: str | None = None,
        regions: bool = False,
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.regions = regions
        self.embed_dims = embed_dims
        self.text_dims = text_dims
        self.prototypes = NonLearnablePrototypes(
            num_prototypes,
            text_dims,
            momentum,
            num_iters,
            temperature=temperature,
            start=start,
            balance=balance,
        )
        self.projection = ProjectionMLP(embed_dims, text_dims, hidden_channels)

    def forward(
        self,
        centres: Tensor,
        eot: Tensor,
        tokens: Tensor,
        mask: Tensor,
        num_captions: int = 1,
    ) -> TextPairs:
        """Map the centres and cluster the words.

        Args:
            centres: (B, G, embed_dims) group centres of the last grouping stage.
            eot: (B, D), features at the end token; not used here.
            tokens: (B, L, text_dims), features of all tokens.
            mask: (B, L), False for padding.
            num_captions: Captions of equal length that the tokens are of, one behind another.

        Returns:
            Both in the text's width, (B, G, text_dims).

        Raises:
            ValueError: If G is not the number of prototypes, or no multiple of the captions that
                are to have prototypes of their own, or if the centres have another width.
        """
        _check_number(centres, self.prototypes)
        if centres.shape[2] != self.embed_dims:
            raise ValueError(
                f'T-NPR maps centres of {self.embed_dims} channels, and those of the last grouping '
                f'stage have {centres.shape[2]}; set text_prototypes.embed_dims={centres.shape[2]}'
            )
        shares = None
        if self.regions and num_captions > 1:
            shares = torch.eye(num_captions, device=tokens.device)
            shares = shares.repeat_interleave(tokens.shape[1] // num_captions, dim=1)
            shares = shares.expand(len(tokens), -1, -1)
        prototypes = self.prototypes(tokens, mask, shares).prototypes
        return TextPairs(self.projection(centres), prototypes)


class _ScalarPrototypes(NonLearnablePrototypes):
    """Clusters of single numbers: of unit length over the groups, and never at rest."""

    norm_dim = 1
    moves_in_evaluation = True


@MODELS.register_module()
class ReleaseTextPrototypes(nn.Module):
    """T-NPR as the authors' release computes it, to study it; it cannot teach the groups anything.

    The end token's vector is clustered as if its C channels were C tokens of one number each,
    groups are averaged to one number each, and the cosine of single numbers is 1 or -1, so that no
    gradient reaches the groups. ``mu`` (1, G, 1) moves at every call, in evaluation mode, too
    (docs/method.md, 6). Where the release moves it whenever a text is encoded, here the loss does.

    Args:
        num_prototypes: Number of prototypes, that of the last grouping stage's groups.
        loss_weight: Factor of the T-NPR loss.
        momentum: Share of ``mu`` that stays at an update.
        num_iters: Rounds of clustering.
        embed_dims: Channels of the group centres; of no consequence.
        text_dims: Channels of the token features; of no consequence.
    """

    def __init__(
        self,
        num_prototypes: int = 8,
        loss_weight: float = 0.01,
        momentum: float = 0.9,
        num_iters: int = 10,
        embed_dims: int | None = None,
        text_dims: int | None = None,
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.prototypes = _ScalarPrototypes(num_prototypes, 1, momentum, num_iters)

    def forward(
        self,
        centres: Tensor,
        eot: Tensor,
        tokens: Tensor,
        mask: Tensor,
        num_captions: int = 1,
    ) -> TextPairs:
        """Average the centres and cluster the channels of the end token.

        Args:
            centres: (B, G, C) group centres of the last grouping stage.
            eot: (B, D), features at the end token.
            tokens: (B, L, D), not used here.
            mask: (B, L), not used here.
            num_captions: Not used here.

        Returns:
            Both as single numbers, (B, G, 1), without gradient.

        Raises:
            ValueError: If G is not the number of prototypes.
        """
        _check_number(centres, self.prototypes)
        prototypes = self.prototypes(eot[..., None]).prototypes
        return TextPairs(
            centres.detach().mean(dim=-1, keepdim=True).to(prototypes.dtype), prototypes
        )


def _check_number(centres: Tensor, prototypes: NonLearnablePrototypes) -> None:
    if centres.shape[1] != prototypes.mu.shape[1]:
        raise ValueError(
            f'T-NPR matches {centres.shape[1]} groups of the last grouping stage with '
            f'{prototypes.mu.shape[1]} prototypes of the caption; set num_prototypes='
            f'{centres.shape[1]}'
        )
