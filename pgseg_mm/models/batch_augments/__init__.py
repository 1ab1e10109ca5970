"""What joins the images of a training batch, and says where the captions belong."""

from .mosaic_images import MosaicImages
from .paste_images import PasteImages
from .random_augment import RandomBatchAugment

__all__ = ['MosaicImages', 'PasteImages', 'RandomBatchAugment']
