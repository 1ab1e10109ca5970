"""Images as they are encoded, and the way back to what they were."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mmseg.structures import SegDataSample
from torch import Tensor

from .image_geometry import flip_direction, nearest_pixels, with_a_patch, without_padding
from .pixel_classes import ImageScores
from .sliding_window import Window
from .stitching import FLIPPED_AXES


class PreparedImages(NamedTuple):
    """B images without padding, none of them smaller than a patch."""

    images: list[Tensor]
    """(3, H, W) of any sizes."""
    sizes: list[tuple[int, int]]
    """(height, width) of each before it was stretched to a patch, if it was."""
    flips: list[str | None]
    """How each was mirrored."""
    windows: list[list[Window]]
    """What each is cut into."""
    guided: bool
    """Whether images go along with their scores, for a refinement by them."""

    def labels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Label maps (h, w) of the images before they were resized and mirrored, as they are now.

        Labels are not mixed: each pixel has that of the nearest one.
        """
        return [
            nearest_pixels(
                labels if flip is None else labels.flip(FLIPPED_AXES[flip]),
                (image.shape[-2], image.shape[-1]),
            )
            for labels, image, flip in zip(maps, self.images, self.flips, strict=True)
        ]

    def undo(self, scores: Sequence[ImageScores]) -> list[ImageScores]:
        """Class scores of the images as they were before they were stretched and mirrored."""
        results = []
        for each, image, size, flip in zip(
            scores, self.images, self.sizes, self.flips, strict=True
        ):
            sized = each.at_size(size)._replace(guide=image if self.guided else None)
            results.append(sized if flip is None else sized.flip(flip))
        return results


def prepare_images(
    inputs: Tensor | Sequence[Tensor],
    data_samples: Sequence[SegDataSample],
    patch_size: int,
    windows: Callable[[tuple[int, int]], list[Window]],
    guided: bool,
) -> PreparedImages:
    """Take padding off, and stretch images that have no room for a patch.

    Args:
        inputs: (B, 3, H, W), or B images (3, H, W) of any sizes.
        data_samples: One for each image, with what the pipeline has done to it.
        patch_size: Side of a patch in pixels.
        windows: From (height, width) of an image to its windows.
        guided: Whether images are to go along with their scores.
    """
    metas = [sample.metainfo for sample in data_samples]
    images = [without_padding(image, meta) for image, meta in zip(inputs, metas, strict=True)]
    stretched = [with_a_patch(image, patch_size) for image in images]
    return PreparedImages(
        images=stretched,
        sizes=[(image.shape[-2], image.shape[-1]) for image in images],
        flips=[flip_direction(meta) for meta in metas],
        windows=[windows((image.shape[-2], image.shape[-1])) for image in stretched],
        guided=guided,
    )
