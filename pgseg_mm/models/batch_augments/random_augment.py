from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import broadcast, get_comm_device, get_world_size
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..layers.dist import step_seed
from ..layers.regions import RegionLayout, whole_images


class RandomBatchAugment(nn.Module):
    """Joins the images of a batch in one of several ways, or leaves them, by chance.

    The chance is that of the training step, and the same on all ranks, which must have equally many
    regions of one size.

    Args:
        augments: Config, or configs, of :class:`PasteImages`, :class:`MosaicImages` or others with
            ``forward(images, generator)`` that returns images and their :class:`RegionLayout`.
        probs: Probability of each; what is missing to one leaves the images as they are. By default
            all are equally probable.

    Raises:
        ValueError: If there is not a probability for each, one is negative or no number, they
            exceed one, or there is nothing to choose from.
    """

    def __init__(
        self, augments: dict | Sequence[dict], probs: float | Sequence[float] | None = None
    ) -> None:
        super().__init__()
        augments = [augments] if isinstance(augments, dict) else list(augments)
        if not augments:
            raise ValueError('batch_augments has no augments; name some, or set it to None')
        if probs is None:
            probs = [1 / len(augments)] * len(augments)
        given: list[Any] = list(probs) if isinstance(probs, (list, tuple)) else [probs]
        self.probs = given
        if len(self.probs) != len(augments):
            raise ValueError(
                f'batch_augments has {len(augments)} augments and {len(self.probs)} probs; give '
                'one for each'
            )
        numbers = all(isinstance(prob, (int, float)) for prob in self.probs)
        if not numbers or not all(prob >= 0 for prob in self.probs) or sum(self.probs) > 1 + 1e-6:
            raise ValueError(
                f'probs of batch_augments must not be negative and sum up to 1 at most, got '
                f'{self.probs}'
            )
        self.augments = nn.ModuleList(MODELS.build(augment) for augment in augments)

    def forward(self, images: Tensor) -> tuple[Tensor, RegionLayout]:
        """Join the images of a batch.

        Args:
            images: (B, 3, H, W), normalised.

        Returns:
            The images (M, 3, H', W') and where the B captions belong.
        """
        generator = torch.Generator().manual_seed(shared_seed())
        chance = torch.rand((), generator=generator).item()
        for augment, prob in zip(self.augments, self.probs, strict=True):
            if chance < prob:
                return augment(images, generator)
            chance -= prob
        return images, whole_images(images)


def shared_seed() -> int:
    """A seed for this training step that all ranks have.

    It is that of the :class:`StepSeedHook`. Without the hook it is drawn from torch's random
    numbers, and the ranks take that of the first, for which they wait.
    """
    seed = step_seed()
    if seed is not None:
        return seed
    drawn = torch.randint(2**31, (1,))
    if get_world_size() > 1:
        drawn = drawn.to(get_comm_device())
        broadcast(drawn)
    return int(drawn)
