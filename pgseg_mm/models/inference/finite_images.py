from collections.abc import Sequence

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor


def check_finite(
    images: Tensor | Sequence[Tensor], data_samples: Sequence[BaseDataElement] | None = None
) -> None:
    """Refuse images with NaN or infinite values.

    Integers pass unread. Images on an accelerator are waited for once.

    Args:
        images: (B, ...) or a list of B images of any shape.
        data_samples: Samples of the images, whose ``img_path`` the message names if they have one.

    Raises:
        ValueError: If there are such images.
    """
    parts = [images] if isinstance(images, Tensor) else images
    if not any(part.is_floating_point() for part in parts):
        return
    if isinstance(images, Tensor):
        flat = images.flatten(1)
        # NaN passes through minimum and maximum, which read faster than isfinite writes a mask
        extremes = torch.stack([flat.amin(1), flat.amax(1)], dim=1)
    else:
        extremes = torch.stack([torch.stack(image.aminmax()) for image in images])
    finite = extremes.isfinite().all(dim=1).tolist()
    if all(finite):
        return
    samples = data_samples or [None] * len(finite)
    faulty = [
        f'{index} ({sample.img_path})' if 'img_path' in (sample or ()) else f'{index}'
        for index, (sample, good) in enumerate(zip(samples, finite, strict=True))
        if not good
    ]
    raise ValueError(
        f'NaN or infinite values in image {", ".join(faulty)} of the batch; expected finite pixel '
        'values. Look for damaged files and for divisions by zero in the data pipeline.'
    )
