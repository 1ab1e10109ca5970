"""What data sets for zero-shot segmentation share: classes from a vocabulary, labels over 255."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmseg.datasets import BaseSegDataset

from pgseg_mm.text.vocabulary import Vocabulary


def vocabulary_metainfo(name: str) -> dict[str, tuple]:
    """Classes and palette of a data set.

    Args:
        name: Vocabulary that comes with the package. The first word of each class is its name.

    Returns:
        ``classes`` and ``palette`` for the ``METAINFO`` of a data set.
    """
    classes = Vocabulary.from_file(name).names
    return {'classes': classes, 'palette': tuple(voc_colours(len(classes)))}


class WideLabelDataset(BaseSegDataset):
    """Base of data sets with an ignored label other than 255, which may be a class here.

    mmseg marks the classes that ``metainfo`` leaves out by 255; here it is ``IGNORE_INDEX``, which
    :class:`LoadWideAnnotations` and the metric must have as their ``ignore_index``.

    Args:
        **kwargs: Arguments of mmseg's :class:`BaseSegDataset`, but for ``ignore_index``.
    """

    IGNORE_INDEX: int

    def __init__(self, **kwargs) -> None:
        super().__init__(ignore_index=self.IGNORE_INDEX, **kwargs)

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int] | None:
        """New label of each label, where ``metainfo`` chooses or reorders classes."""
        if new_classes is None or super().get_label_map(new_classes) is None:
            return None
        labels = {name: label for label, name in enumerate(new_classes)}
        return {
            label: labels.get(name, cls.IGNORE_INDEX)
            for label, name in enumerate(cls.METAINFO['classes'])
        }

    def _update_palette(self) -> Sequence:
        """Colours of the chosen classes."""
        classes = self._metainfo['classes']
        palette = self._metainfo.get('palette') or voc_colours(
            len(self.METAINFO.get('classes', classes))
        )
        self._metainfo.setdefault('palette', palette)
        if self.label_map is None or len(palette) == len(classes):
            return super()._update_palette()
        colours = dict(zip(self.METAINFO['classes'], palette, strict=True))
        return tuple(colours[name] for name in classes)


def voc_colours(number: int) -> list[list[int]]:
    """Colours of labels, no two alike, the same at every call.

    They are those of Pascal VOC, which spreads the bits of a label over the high bits of red, green
    and blue; label 0 is black.

    Args:
        number: How many; at most 2 ** 24.

    Returns:
        [red, green, blue] for each label.
    """
    labels = np.arange(number)
    colours = np.zeros((number, 3), dtype=np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((labels >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.tolist()
