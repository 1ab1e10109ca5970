"""Pictures by mmseg's visualisation hook."""

from pathlib import PurePath

import mmcv
import numpy as np
from mmengine.dist import master_only
from mmseg.registry import VISUALIZERS
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer

from .panels import OPACITY
from .segmentation_picture import ShownImage, draw_picture, groups_of, to_map

FIELDS = {'prediction': 'pred_sem_seg', 'truth': 'gt_sem_seg'}


@VISUALIZERS.register_module()
class PGSegVisualizer(SegLocalVisualizer):
    """Draws input, prediction and truth side by side, with names and a legend.

    Below them stand the groups of the first and the last stage and the assignment to prototypes,
    if the samples have ``pred_groups``; the :class:`PGSegVisualizationHook` asks for them.

    Args:
        name: Name of the instance.
        alpha: How much of the image the colours hide, from 0 to 1.
        kwargs: Further arguments of mmseg's ``SegLocalVisualizer``.
    """

    def __init__(self, name: str = 'visualizer', *args, alpha: float = OPACITY, **kwargs) -> None:
        super().__init__(name, *args, alpha=alpha, **kwargs)

    @master_only
    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: SegDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        step: int = 0,
        with_labels: bool = True,
    ) -> None:
        """Draw an image, and show it or hand it to the backends.

        Args:
            name: Name of the picture. If it ends with the name of the image file, the folder of
                that file is added, so that images of one name in several folders stay apart.
            image: (H, W, 3), RGB from 0 to 255.
            data_sample: Prediction and truth, as far as they are known.
            draw_gt: Whether to draw the truth.
            draw_pred: Whether to draw prediction, groups and prototypes.
            show: Whether to open a window with the picture.
            wait_time: Seconds that the window stays; 0 until a key is pressed.
            out_file: File to write, instead of handing the picture to the backends.
            step: Number of the picture for the backends.
            with_labels: Whether to write names into the segments.
        """
        wanted = {'prediction': draw_pred, 'truth': draw_gt}
        labels = {
            title: to_map(data_sample.get(field).data)
            for title, field in FIELDS.items()
            if wanted[title] and data_sample is not None and field in data_sample
        }
        picture = image
        if labels:
            assert data_sample is not None
            groups = groups_of(data_sample) if draw_pred else ({}, {})
            picture = draw_picture(
                ShownImage(image, labels, *groups),
                self.dataset_meta['classes'],
                self.dataset_meta.get('palette'),
                opacity=self.alpha,
                with_names=with_labels,
            )
        self.set_image(picture)
        name = _name_with_folder(name, data_sample)
        if show:
            self.show(picture, win_name=name, wait_time=wait_time)
        if out_file is None:
            self.add_image(name, picture, step)
        else:
            mmcv.imwrite(mmcv.rgb2bgr(picture), out_file)


def _name_with_folder(name: str, data_sample: SegDataSample | None) -> str:
    """``test_frankfurt_1`` for ``test_1.png``, the picture of ``.../frankfurt/1.png``."""
    path = PurePath(getattr(data_sample, 'img_path', None) or '')
    if not path.name or not name.endswith(path.name):
        return name
    prefix = name.removesuffix(path.name)
    return prefix + '_'.join(part for part in (path.parent.name, path.stem) if part)
