"""Image-text pairs listed in an annotation file."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import BaseDataset
from mmengine.fileio import join_path
from mmengine.logging import print_log
from mmseg.registry import DATASETS

DECODE_ERRORS = (AssertionError, AttributeError, OSError, SyntaxError, cv2.error)
"""What mmcv's loading raises for bytes that are no image, depending on its backend and version."""

NumberedRow = tuple[str, dict[str, Any]]
"""Where a row stands ('line 7') and its columns."""


@DATASETS.register_module()
class ImageTextDataset(BaseDataset):
    """Images with captions, from a JSON, JSON-lines, CSV or TSV file.

    An item, before the pipeline, holds ``img_path``, ``caption``, ``ann_row`` (where the pair is in
    the annotation file, such as 'line 7') and mmengine's ``sample_idx``. Rows with an empty caption
    are left out and counted in a warning; everything else that is wrong is an error.

    Args:
        ann_file: ``.json`` (a list of objects), ``.jsonl`` (an object a line), ``.csv`` or ``.tsv``
            (with a header line).
        image_key: Column of the image's path, relative to ``data_prefix['img_path']``.
        caption_key: Column of the caption.
        **kwargs: Arguments of :class:`mmengine.dataset.BaseDataset`, such as ``data_root``,
            ``data_prefix=dict(img_path='images/')`` and ``pipeline``.

    Raises:
        FileNotFoundError: The annotation file does not exist.
        ValueError: The annotation file has another suffix, is malformed, lacks a column, has a row
            without an image path or with a caption that is no text, or has no usable row.
    """

    def __init__(
        self,
        ann_file: str,
        image_key: str = 'image',
        caption_key: str = 'caption',
        **kwargs: Any,
    ) -> None:
        self.image_key = image_key
        self.caption_key = caption_key
        super().__init__(ann_file=ann_file, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the annotation file.

        Returns:
            One ``dict(img_path=..., caption=..., ann_row=...)`` for each pair.
        """
        prefix = self.data_prefix.get('img_path', '')
        pairs, empty = [], 0
        for place, row in _read_rows(Path(self.ann_file)):
            image = self._text(row, self.image_key, 'image_key', place)
            caption = self._text(row, self.caption_key, 'caption_key', place).strip()
            if not image.strip():
                raise ValueError(f'{self.ann_file}, {place}: the image path is empty.')
            if caption:
                img_path = join_path(prefix, image.strip())
                pairs.append(dict(img_path=img_path, caption=caption, ann_row=place))
            else:
                empty += 1
        if not pairs:
            raise ValueError(
                f'{self.ann_file} has no usable row ({empty} with an empty caption); '
                'expected at least one image with a caption.'
            )
        if empty:
            print_log(
                f'{self.ann_file}: left out {empty} of {empty + len(pairs)} rows, '
                'whose caption is empty.',
                logger='current',
                level=logging.WARNING,
            )
        return pairs

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline on one pair.

        Args:
            idx: Index of the pair.

        Raises:
            FileNotFoundError: The image does not exist.
            ValueError: The image cannot be read or decoded.
        """
        results = self.get_data_info(idx)
        for transform in self.pipeline.transforms:
            if isinstance(transform, LoadImageFromFile):
                results = self._load_image(transform, results)
            else:
                results = transform(results)
            if results is None:
                return None
        return results

    def _load_image(self, load: LoadImageFromFile, results: dict[str, Any]) -> Any:
        image = f'Image {results["img_path"]} ({results["ann_row"]} of {self.ann_file})'
        try:
            return load(results)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'{image} does not exist; check data_root and data_prefix, or remove the row.'
            ) from error
        except DECODE_ERRORS as error:
            raise ValueError(
                f'{image} cannot be read as an image; replace the file or remove the row.'
            ) from error

    def _text(self, row: dict[str, Any], key: str, argument: str, place: str) -> str:
        if key not in row:
            raise ValueError(
                f'{self.ann_file}, {place}: there is no column {key!r}, only {sorted(row)}; '
                f'set {argument} to the right one.'
            )
        if not isinstance(row[key], str):
            raise ValueError(
                f'{self.ann_file}, {place}: column {key!r} is {row[key]!r} of type '
                f'{type(row[key]).__name__}; expected a string.'
            )
        return row[key]


def _read_rows(path: Path) -> Iterator[NumberedRow]:
    readers = {
        '.json': _read_json,
        '.jsonl': _read_json_lines,
        '.csv': _read_csv,
        '.tsv': _read_tsv,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f'Annotation file {str(path)!r} has the suffix {path.suffix!r}; '
            f'expected one of {sorted(readers)}.'
        )
    if not path.is_file():
        raise FileNotFoundError(
            f'Annotation file {path} does not exist; check ann_file and data_root '
            '(a relative ann_file is joined to data_root).'
        )
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise ValueError(f'Annotation file {path} is not UTF-8 text; save it as UTF-8.') from error


def _read_json(path: Path) -> Iterator[NumberedRow]:
    try:
        rows = json.loads(path.read_text(encoding='utf-8-sig'))
    except json.JSONDecodeError as error:
        raise ValueError(f'{path}, line {error.lineno}: invalid JSON: {error.msg}.') from error
    if not isinstance(rows, list):
        raise ValueError(
            f'{path} holds a JSON {type(rows).__name__}; expected a list with one object a pair.'
        )
    for number, row in enumerate(rows, start=1):
        yield _checked_object(path, f'entry {number}', row)


def _read_json_lines(path: Path) -> Iterator[NumberedRow]:
    with path.open(encoding='utf-8-sig') as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f'{path}, line {number}: invalid JSON: {error.msg}.') from error
            yield _checked_object(path, f'line {number}', row)


def _checked_object(path: Path, place: str, row: Any) -> NumberedRow:
    if not isinstance(row, dict):
        raise ValueError(
            f'{path}, {place}: found a JSON {type(row).__name__}; '
            'expected an object with the image and the caption.'
        )
    return place, row


def _read_csv(path: Path, delimiter: str = ',') -> Iterator[NumberedRow]:
    with path.open(encoding='utf-8-sig', newline='') as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            columns = [column.strip() for column in next(reader, [])]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(columns):
                    raise ValueError(
                        f'{path}, line {reader.line_num}: {len(row)} fields, but the header has '
                        f'{len(columns)}; put double quotes around a field that holds '
                        f'{delimiter!r}.'
                    )
                yield f'line {reader.line_num}', dict(zip(columns, row, strict=True))
        except csv.Error as error:
            raise ValueError(
                f'{path}, line {reader.line_num}: {error}; check the quoting '
                '(inside a quoted field a double quote is written twice).'
            ) from error


def _read_tsv(path: Path) -> Iterator[NumberedRow]:
    return _read_csv(path, delimiter='\t')
