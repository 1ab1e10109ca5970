"""Images with all their captions, to measure retrieval on."""

from __future__ import annotations

from typing import Any

from mmseg.registry import DATASETS

from .image_text import ImageTextDataset


@DATASETS.register_module()
class ImageTextRetrievalDataset(ImageTextDataset):
    """The pairs of :class:`ImageTextDataset`, an item for each image.

    An item, before the pipeline, holds ``img_path`` and ``text``, the list of the image's captions,
    as mmpretrain's sets for retrieval do. Rows of the same path are one image, wherever they stand.

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
        images: dict[Any, dict[str, Any]] = {}
        for pair in super().load_data_list():
            caption = pair.pop('caption')
            key = pair.get('img_row', pair['img_path'])
            images.setdefault(key, {**pair, 'text': []})['text'].append(caption)
        return list(images.values())
