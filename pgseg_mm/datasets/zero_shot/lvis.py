"""LVIS v1 as semantic segmentation."""

import os.path as osp

import mmengine.fileio as fileio
from mmseg.registry import DATASETS

from .wide_labels import WideLabelDataset, vocabulary_metainfo


@DATASETS.register_module()
class LVISDataset(WideLabelDataset):
    """The 1203 categories of LVIS v1, with a background class, on images of COCO.

    Label maps are images of 16 bits with the category ids, 0 where there is no segment, and 65535
    for what is ignored. Those of LVIS's validation set belong to images of both train2017 and
    val2017, so the data set consists of the images that have a label map at the same path, below
    ``data_prefix['seg_map_path']``. Load them by ``LoadWideAnnotations``.

    Args:
        img_suffix: Suffix of images.
        seg_map_suffix: Suffix of label maps.
        **kwargs: Arguments of mmseg's :class:`BaseSegDataset`.
    """

    METAINFO = vocabulary_metainfo('lvis')
    IGNORE_INDEX = 65535

    def __init__(self, img_suffix: str = '.jpg', seg_map_suffix: str = '.png', **kwargs) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images that have a label map, or those of ``ann_file``."""
        if self.ann_file:
            return super().load_data_list()
        images, maps = self.data_prefix['img_path'], self.data_prefix['seg_map_path']
        names = fileio.list_dir_or_file(
            maps,
            list_dir=False,
            suffix=self.seg_map_suffix,
            recursive=True,
            backend_args=self.backend_args,
        )
        return [
            {
                'img_path': osp.join(
                    images, name.removesuffix(self.seg_map_suffix) + self.img_suffix
                ),
                'seg_map_path': osp.join(maps, name),
                'label_map': self.label_map,
                'reduce_zero_label': self.reduce_zero_label,
                'seg_fields': [],
            }
            for name in sorted(names)
        ]
