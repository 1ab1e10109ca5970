"""Pairs that a row of an annotation file stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pgseg_mm import limits
from pgseg_mm.messages import described, listed, shown

from .parquet_rows import PATH, ImageInRow
from .row_paths import RowPaths
from .skips import (
    CAPTION_NOT_UTF8,
    EMPTY_CAPTION,
    MISSING_IMAGE,
    TOO_MANY_BYTES,
    UnusableSample,
)

NO_VALUE = ('nan', '<na>', 'none', 'null')
"""What pandas and its like write, in any case, where there is no value."""


class RowPairs:
    """Makes pairs of rows.

    Args:
        path: The annotation file, for messages.
        image_key: Column of the image.
        caption_key: Column of the caption.
        paths: Joins and checks paths.
    """

    def __init__(self, path: Path, image_key: str, caption_key: str, paths: RowPaths) -> None:
        self._path, self._shown = path, shown(path)
        self._image_key, self._caption_key = image_key, caption_key
        self._paths = paths

    def pairs(self, row: dict[str, Any], place: str) -> list[dict[str, Any] | UnusableSample]:
        """The pairs of a row, one for each caption, or why there are none.

        Args:
            row: Columns of the row.
            place: Where it stands, such as 'line 7'.

        Raises:
            ValueError: A column is missing or holds something else.
        """
        image = self._value(row, self._image_key, 'image_key', place)
        captions = self._captions(row, place)
        name = f'{self._shown}, {place},'
        try:
            info = self._image(image, name, place)
        except UnusableSample as fault:
            return [fault]
        if not captions:
            return [UnusableSample(EMPTY_CAPTION, f'{name} has an empty list of captions.')]
        return [
            _fault_of(caption, name) or {**info, 'caption': caption, 'ann_row': place}
            for caption in captions
        ]

    def _image(self, image: Any, name: str, place: str) -> dict[str, Any]:
        if isinstance(image, ImageInRow):
            img_path = f'{self._path}#{image.path or f"row {image.row + 1}"}'
            return dict(img_path=img_path, img_row=image.row)
        if isinstance(image, dict):  # as Hugging Face's datasets write it in JSON
            image = image.get(PATH)
        if image is None or image != image:
            image = ''
        if not isinstance(image, str):
            raise self._wrong_type(self._image_key, image, place)
        if not image.strip():
            raise UnusableSample(MISSING_IMAGE, f'{name} has no image.')
        return dict(img_path=self._paths.join(image.strip(), name))

    def _captions(self, row: dict[str, Any], place: str) -> list[str]:
        value = self._value(row, self._caption_key, 'caption_key', place)
        texts = []
        for text in value if isinstance(value, list) else [value]:
            if text is None or text != text:  # NaN
                text = ''
            if not isinstance(text, str):
                raise self._wrong_type(self._caption_key, text, place)
            text = text.strip()
            texts.append('' if len(text) < 5 and text.lower() in NO_VALUE else text)
        return texts

    def _value(self, row: dict[str, Any], key: str, argument: str, place: str) -> Any:
        if key not in row:
            raise ValueError(
                f'{self._shown}, {place}: there is no column {shown(repr(key))}, only '
                f'{listed(sorted(row))}; set {argument} to the right one. A table begins with a '
                'line of the names of its columns.'
            )
        return row[key]

    def _wrong_type(self, key: str, value: Any, place: str) -> ValueError:
        return ValueError(
            f'{self._shown}, {place}: column {shown(repr(key))} is {described(value)}; '
            'expected a string.'
        )


def _fault_of(caption: str, name: str) -> UnusableSample | None:
    if not caption:
        return UnusableSample(EMPTY_CAPTION, f'{name} has an empty caption.')
    if len(caption) > limits.MAX_ROW_CHARACTERS:
        return UnusableSample(TOO_MANY_BYTES, f'{name} has a caption of {len(caption)} characters.')
    try:
        if not caption.isascii():
            caption.encode()  # JSON may name halves of letters
    except UnicodeEncodeError:
        return UnusableSample(CAPTION_NOT_UTF8, f'{name} has a caption that is no UTF-8 text.')
    return None
