"""ImageNet-S: segmentation of ImageNet's images by 50, 300 or 919 of its classes."""

from mmseg.registry import DATASETS

from .wide_labels import WideLabelDataset, vocabulary_metainfo


@DATASETS.register_module()
class ImageNetSDataset(WideLabelDataset):
    """ImageNet-S with 919 classes and a background class.

    Label maps are RGB images with the label red + 256 * green: 0 is what belongs to none of the
    classes, then the classes follow in the order of their WordNet ids, and 1000 is ignored. Images
    and label maps lie in a folder for each WordNet id. Load them by
    ``LoadWideAnnotations(rgb=True, ignore_index=1000)``.

    Args:
        img_suffix: Suffix of images.
        seg_map_suffix: Suffix of label maps.
        **kwargs: Arguments of mmseg's :class:`BaseSegDataset`.
    """

    METAINFO = vocabulary_metainfo('imagenet_s919')
    IGNORE_INDEX = 1000

    def __init__(self, img_suffix: str = '.JPEG', seg_map_suffix: str = '.png', **kwargs) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)


@DATASETS.register_module()
class ImageNetS300Dataset(ImageNetSDataset):
    """ImageNet-S with 300 classes and a background class; see :class:`ImageNetSDataset`."""

    METAINFO = vocabulary_metainfo('imagenet_s300')


@DATASETS.register_module()
class ImageNetS50Dataset(ImageNetSDataset):
    """ImageNet-S with 50 classes and a background class; see :class:`ImageNetSDataset`."""

    METAINFO = vocabulary_metainfo('imagenet_s50')
