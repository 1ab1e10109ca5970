"""DAVIS 2016: the main objects of its validation sequences by their words."""

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from .wide_labels import vocabulary_metainfo


@DATASETS.register_module()
class DAVISMainObjectDataset(BaseSegDataset):
    """Semantic segmentation of the 15 things that DAVIS's main objects are, and a background class.

    In the label maps 0 is the background, that is all but the main object, and 255 is ignored:
    masks that hold several things. ``tools/dataset_converters/davis.py`` makes them. The vocabulary
    ``davis2016_surroundings`` has five words for the background: 20 words in all.

    Args:
        img_suffix: Suffix of images.
        seg_map_suffix: Suffix of label maps.
        **kwargs: Arguments of mmseg's :class:`BaseSegDataset`.
    """

    METAINFO = vocabulary_metainfo('davis2016')

    def __init__(self, img_suffix: str = '.jpg', seg_map_suffix: str = '.png', **kwargs) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)
