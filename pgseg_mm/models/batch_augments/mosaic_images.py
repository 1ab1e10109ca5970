from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..layers.host_copies import copy_to_device
from ..layers.regions import RegionLayout
from ..layers.whole_numbers import check_whole


@MODELS.register_module()
class MosaicImages(nn.Module):
    """Joins images of a batch to mosaics, whose tiles are regions with a caption each.

    The mosaics have as many pixels together as the batch had: B images become B / 4 mosaics of
    twice the side, or, with tiles of half the side, B mosaics in which every image is four times.
    If that does not come out even, some images are there once more than others.

    Args:
        rows: Tiles of a column.
        columns: Tiles of a row.
        scale: Side of a tile over that of an image.

    Raises:
        ValueError: If there is only one tile, or ``scale`` is not in (0, 1].
    """

    def __init__(self, rows: int = 2, columns: int = 2, scale: float = 1.0) -> None:
        super().__init__()
        check_whole('rows of MosaicImages', rows)
        check_whole('columns of MosaicImages', columns)
        if rows * columns < 2:
            raise ValueError(f'a mosaic needs several tiles, got {rows} x {columns}')
        if not 0 < scale <= 1:
            raise ValueError(f'scale of MosaicImages must be in (0, 1], got {scale}')
        self.rows = rows
        self.columns = columns
        self.scale = scale

    def forward(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, RegionLayout]:
        """Join.

        Args:
            images: (B, C, H, W).
            generator: Where the random numbers are from.

        Returns:
            Mosaics (M, C, rows * s * H, columns * s * W) for tiles of scale s, and the layout with
            R = rows * columns regions, row by row.
        """
        number, tiles = len(images), self.rows * self.columns
        mosaics = math.ceil(round(number / self.scale**2) / tiles)
        rounds = math.ceil(mosaics * tiles / number)
        order = torch.cat([torch.randperm(number, generator=generator) for _ in range(rounds)])
        captions = copy_to_device(order[: mosaics * tiles].view(mosaics, tiles), images.device)
        height, width = (round(side * self.scale) for side in images.shape[-2:])
        if self.scale < 1:
            images = F.interpolate(images, (height, width), mode='bilinear', antialias=True)
        joined = images[captions].unflatten(1, (self.rows, self.columns))
        # (M, rows, columns, C, H, W) -> (M, C, rows, H, columns, W)
        joined = joined.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        labels = torch.arange(tiles, device=images.device).view(self.rows, self.columns)
        labels = labels.repeat_interleave(height, 0).repeat_interleave(width, 1)
        return joined, RegionLayout(labels, captions)
