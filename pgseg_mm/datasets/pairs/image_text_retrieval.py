"""Images with all their captions, to measure retrieval on."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

from mmseg.registry import DATASETS

from .image_text import ImageTextDataset
from .skips import UnusableSample


@DATASETS.register_module()
class ImageTextRetrievalDataset(ImageTextDataset):
    """The pairs of :class:`ImageTextDataset`, an item for each image.

    An item, before the pipeline, holds ``img_path`` and ``text``, the list of the image's captions,
    as mmpretrain's sets for retrieval do. Rows of the same path are one image, wherever they stand;
    within Parquet, those of the same name and content.

    Args:
        **kwargs: Arguments of :class:`ImageTextDataset`. ``test_mode`` is on unless it is given, so
            that a broken image is an error: another one in its place would have other captions.

    Raises:
        ValueError: As :class:`ImageTextDataset`.
    """

    def __init__(self, *args: Any, test_mode: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, test_mode=test_mode, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Read the annotation file or the folder.

        Returns:
            One ``dict(img_path=..., text=[...], ann_row=...)`` for each image, in the order of
            their first rows.
        """
        pairs = super().load_data_list()
        rows = {(pair['img_path'], pair['img_row']) for pair in pairs if 'img_row' in pair}
        names = Counter(path for path, _ in rows)
        keys: dict[int, Any] = {}  # of the rows whose names do not tell them apart
        images: dict[Any, dict[str, Any]] = {}
        for pair in pairs:
            caption = pair.pop('caption')
            key: Any = pair['img_path']
            if names[key] > 1:
                row = pair['img_row']
                if row not in keys:
                    keys[row] = self._key_of_row(pair)
                key = keys[row]
            images.setdefault(key, {**pair, 'text': []})['text'].append(caption)
        return list(images.values())

    def _key_of_row(self, pair: dict[str, Any]) -> Any:
        """Name and content of an image in a file: equal names may be those of other images."""
        try:
            return pair['img_path'], hashlib.sha256(self._embedded_image(pair)).digest()
        except UnusableSample:
            return pair['img_path'], pair['img_row']  # the item will say why
