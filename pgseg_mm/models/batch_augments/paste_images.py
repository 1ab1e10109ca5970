from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..layers.regions import RegionLayout
from ..layers.whole_numbers import check_whole


@MODELS.register_module()
class PasteImages(nn.Module):
    """Pastes into every image of a batch another one, shrunk, at a random place of the patch grid.

    Two regions: what is around, with the image's own caption, and what is inside, with that of the
    other image. Place and size are the same for the whole batch, and there are as many images as
    before. Each process pastes among the images of its own batch.

    Args:
        grid: Cells of the grid, a side; at best the number of patches.
        sizes: Sides of the pasted image in cells, of which one is drawn.

    Raises:
        ValueError: If a size is not between 1 and ``grid - 1``.
    """

    def __init__(self, grid: int = 8, sizes: Sequence[int] = (3, 4, 5)) -> None:
        super().__init__()
        check_whole('grid of PasteImages', grid, least=2)
        if not isinstance(sizes, Sequence) or not sizes:
            raise ValueError(f'sizes of PasteImages must be one or several, got {sizes!r}')
        for size in sizes:
            check_whole('each of the sizes of PasteImages, in cells,', size, most=grid - 1)
        self.grid = grid
        self.sizes = tuple(sizes)

    def forward(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, RegionLayout]:
        """Paste.

        Args:
            images: (B, C, H, W), of at least two images.
            generator: Where the random numbers are from.

        Returns:
            Images of the same shape, and the layout with R = 2 regions.

        Raises:
            ValueError: If there is one image only, or the grid does not divide H and W.
        """
        number, (height, width) = len(images), images.shape[-2:]
        if number < 2:
            raise ValueError(
                'PasteImages pastes one image of the batch into another, but the batch has only '
                'one; take a larger batch_size, and drop_last=True'
            )
        if height % self.grid or width % self.grid:
            raise ValueError(
                f'PasteImages has a grid of {self.grid} x {self.grid} cells, which does not divide '
                f'images of {height} x {width} pixels; set grid to a divisor of both, best the '
                'number of patches a side'
            )
        size, top, left, shift = self._draw(number, generator)
        cell = height // self.grid, width // self.grid
        rows = slice(top * cell[0], (top + size) * cell[0])
        columns = slice(left * cell[1], (left + size) * cell[1])
        small = F.interpolate(
            images.roll(-shift, dims=0),
            size=(size * cell[0], size * cell[1]),
            mode='bilinear',
            antialias=True,
        )
        pasted = images.clone()
        pasted[..., rows, columns] = small
        labels = torch.zeros(height, width, dtype=torch.long, device=images.device)
        labels[rows, columns] = 1
        own = torch.arange(number, device=images.device)
        return pasted, RegionLayout(labels, torch.stack([own, own.roll(-shift)], dim=1))

    def _draw(self, number: int, generator: torch.Generator) -> tuple[int, int, int, int]:
        """Size and place in cells, and how far on in the batch the pasted image is."""

        def below(limit: int) -> int:
            return int(torch.randint(limit, (), generator=generator))

        size = self.sizes[below(len(self.sizes))]
        free = self.grid - size + 1
        return size, below(free), below(free), 1 + below(number - 1)
