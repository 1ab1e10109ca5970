"""Images as they are encoded, and the way back to what they were."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mmseg.structures import SegDataSample
from torch import Tensor

from .image_geometry import bilinear_image, flip_direction, nearest_pixels, without_padding
from .pixel_classes import ImageScores
from .sliding_window import Window
from .stitching import FLIPPED_AXES


class PreparedImages(NamedTuple):
    """B images without padding, none of them smaller than a patch."""

    images: list[Tensor]
    """(3, H, W) of any sizes."""
    sizes: list[tuple[int, int]]
    """(height, width) of each before it was resized to have room for patches, if it was."""
    flips: list[str | None]
    """How each was mirrored."""
    windows: list[list[Window]]
    """What each is cut into."""
    guided: bool
    """Whether images go along with their scores, for a refinement by them."""
    straight: bool
    """Whether scores go from the encoded size straight to the one that is asked for; else they are
    those of the nearest pixels first."""

    def labels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Label maps (h, w) of the images before they were resized and mirrored, as they are now.

        Labels are not mixed: each pixel has that of the nearest one.
        """
        return [
            nearest_pixels(
                labels if flip is None else labels.flip(FLIPPED_AXES[flip]),
                (image.shape[-2], image.shape[-1]),
            ).to(image.device)
            for labels, image, flip in zip(maps, self.images, self.flips, strict=True)
        ]

    def undo(self, scores: Sequence[ImageScores]) -> list[ImageScores]:
        """Class scores of the images as they were before they were resized here, and mirrored."""
        results = []
        for each, image, size, flip in zip(
            scores, self.images, self.sizes, self.flips, strict=True
        ):
            sized = each._replace(image_size=size) if self.straight else each.at_size(size)
            sized = sized._replace(guide=image if self.guided else None)
            results.append(sized if flip is None else sized.flip(flip))
        return results


def prepare_images(
    inputs: Tensor | Sequence[Tensor],
    data_samples: Sequence[SegDataSample],
    encoded_size: Callable[[tuple[int, int]], tuple[int, int]],
    windows: Callable[[tuple[int, int]], list[Window]],
    guided: bool,
    straight: bool = False,
) -> PreparedImages:
    """Take padding off, and give images the size that they are encoded at.

    Args:
        inputs: (B, 3, H, W), or B images (3, H, W) of any sizes.
        data_samples: One for each image, with what the pipeline has done to it.
        encoded_size: From (height, width) of an image to that of what is encoded.
        windows: From (height, width) of an image to its windows.
        guided: Whether images are to go along with their scores.
        straight: Whether scores of an image that is encoded at another size are resized once, from
            there to the size that is asked for; else the image has those of the nearest pixels.
    """
    metas = [sample.metainfo for sample in data_samples]
    images = [without_padding(image, meta) for image, meta in zip(inputs, metas, strict=True)]
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    encoded = [encoded_size(size) for size in sizes]
    return PreparedImages(
        images=[bilinear_image(image, size) for image, size in zip(images, encoded, strict=True)],
        sizes=sizes,
        flips=[flip_direction(meta) for meta in metas],
        windows=[windows(size) for size in encoded],
        guided=guided,
        straight=straight,
    )
