"""A picture of an image, its segmentation and what it was made from."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def draw_segmentation(
    image: NDArray[np.uint8],
    mask: NDArray[np.integer],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]] | None = None,
    groups: Mapping[int, NDArray[np.integer]] | None = None,
    truth: NDArray[np.integer] | None = None,
    prototypes: Mapping[int, NDArray[np.integer]] | None = None,
) -> NDArray[np.uint8]:
    """Draw an image and its segmentation side by side, with the names of the classes.

    Args:
        image: (H, W, 3), RGB from 0 to 255.
        mask: (H', W') predicted labels; all maps may have another size than the image.
        classes: Class names in label order. Labels outside of them are ignored ones, which stay
            clear.
        palette: Colours of the classes, RGB from 0 to 255; by default colours that are easy to tell
            apart.
        groups: For each grouping stage to show (0, 1, ...), the group of each pixel.
        truth: True labels.
        prototypes: For each grouping stage to show, the nearest prototype of each pixel.

    Returns:
        (height, width, 3), RGB from 0 to 255.

    Raises:
        ValueError: If an array has another shape than expected, or the palette is too short.
    """
    raise NotImplementedError
