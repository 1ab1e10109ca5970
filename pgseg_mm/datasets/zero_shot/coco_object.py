"""COCO-Object: the things of COCO, all else is background."""

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from .wide_labels import vocabulary_metainfo


@DATASETS.register_module()
class COCOObjectDataset(BaseSegDataset):
    """Semantic segmentation of the 80 thing classes of COCO, with a background class.

    In the label maps 0 is the background, 1 to 80 are the things in the order of their ids, and 255
    is ignored.

    Args:
        img_suffix: Suffix of images.
        seg_map_suffix: Suffix of label maps.
        **kwargs: Arguments of mmseg's :class:`BaseSegDataset`.
    """

    METAINFO = vocabulary_metainfo('coco_object')

    def __init__(
        self,
        img_suffix: str = '.jpg',
        seg_map_suffix: str = '_instanceTrainIds.png',
        **kwargs,
    ) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)
