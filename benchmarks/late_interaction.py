"""What the ablation alone needs: prompts of named things, and their contrast with single groups.

Groups and words meet as in FILIP (arXiv 2111.07783): each word looks for its group by itself, so
that nothing but the best match has to fit. One process only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS, TRANSFORMS
from torch import Tensor, nn

from pgseg_mm.datasets.transforms import NounPrompts
from pgseg_mm.models.losses import RegionTextContrast
from pgseg_mm.text import get_templates


@TRANSFORMS.register_module()
class NamePrompts(NounPrompts):
    """Prompts of the classes that a caption names, where nouns are known and need no tagger.

    Args:
        names: Class names, or a file with one a line.
        num_prompts: Prompts per caption K.
        templates: Templates of the prompts.
    """

    def __init__(
        self,
        names: str | Sequence[str],
        num_prompts: int = 3,
        templates: str | Sequence[str] = 'openai80',
    ) -> None:
        if isinstance(names, str):
            names = Path(names).read_text(encoding='utf-8').split('\n')
        # the longest first: a hot dog is no dog
        known = sorted(filter(None, names), key=len, reverse=True)
        self.pattern = re.compile(rf'\b({"|".join(map(re.escape, known))})\b')
        self.num_prompts = num_prompts
        self.templates = get_templates(templates)

    def find(self, caption: str) -> list[str]:
        """Names in a caption, each once."""
        return list(dict.fromkeys(self.pattern.findall(caption)))


@MODELS.register_module()
class GroupsInContrast(RegionTextContrast):
    """Mean contrast of images and captions that hands on the groups, for a loss of prompts."""

    def embed_regions(self, group_embeds: Tensor, assignment: Tensor, layout=None) -> Tensor:
        """Embeddings (M, G, D) of groups in training, (M, D) of images otherwise."""
        if layout is not None:
            raise ValueError('GroupsInContrast knows whole images only; leave batch_augments out')
        if not self.training:
            return super().embed_regions(group_embeds, assignment)
        return F.normalize(group_embeds.float(), dim=-1)

    def forward(self, group_embeds: Tensor, text_embeds: Tensor, captions=None) -> Tensor:
        """Contrast of the mean groups with (B, D) captions."""
        return super().forward(group_embeds.mean(dim=1), text_embeds, captions)


@MODELS.register_module()
class LateInteractionLoss(nn.Module):
    """Contrast of prompts with the groups that fit them best, for :class:`GroupsInContrast`.

    The score of an image and a prompt is the mean similarity of its groups, weighted by the softmax
    of the similarity itself, scaled: nearly the largest one, and differentiable.

    Args:
        loss_weight: Factor of the loss.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, group_embeds: Tensor, prompt_embeds: Tensor, scale: Tensor) -> Tensor:
        """Mean cross-entropy of both directions; an image's prompts share its target.

        Args:
            group_embeds: (B, G, D), normalised.
            prompt_embeds: (B, K, D), not normalised.
            scale: Inverse temperature, a scalar.
        """
        number, per_image = prompt_embeds.shape[:2]
        prompts = F.normalize(prompt_embeds.float(), dim=-1).flatten(0, 1)
        similarity = torch.einsum('bgd,nd->bng', group_embeds, prompts)
        weights = (scale * similarity).softmax(dim=-1)
        logits = scale * (weights * similarity).sum(dim=-1)
        rows = torch.arange(number, device=logits.device).repeat_interleave(per_image)
        target = F.one_hot(rows, number).T.to(logits.dtype) / per_image
        to_prompts = F.cross_entropy(logits, target)
        to_images = F.cross_entropy(logits.T, rows)
        return self.loss_weight * (to_prompts + to_images) / 2
