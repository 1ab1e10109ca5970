"""Image-text pairs listed in an annotation file, or lying in a folder."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.fileio import join_path
from mmengine.logging import print_log
from mmseg.registry import DATASETS

from .packed_rows import PackedRows
from .pair_files import read_rows
from .sample_key import READ_RECORD, ReadRecord
from .skips import (
    EMPTY_CAPTION,
    MAX_PIXELS,
    MISSING_IMAGE,
    SkipCounter,
    UnusableSample,
    check_pixel_limits,
    describe_counts,
    run_pipeline,
)


@DATASETS.register_module()
class ImageTextDataset(BaseDataset):
    """Images with captions, from a JSON, JSON-lines, CSV, TSV or Parquet file, or from a folder.

    An item, before the pipeline, holds ``img_path``, ``caption``, ``ann_row`` (where the pair is in
    the annotation file, such as 'line 7'), mmengine's ``sample_idx`` and, as ``read_record``, a
    :class:`ReadRecord` of what was skipped on the way to it. Pairs without an image, without a
    caption or with an empty one are left out when the annotations are read, counted in
    :attr:`left_out` and in a warning; everything else that is wrong with the annotations is an
    error.

    Args:
        ann_file: ``.json`` (a list of objects), ``.jsonl`` (an object a line), ``.csv`` or ``.tsv``
            (with a header line), ``.parquet``; or a folder with the caption of ``a/b.jpg`` in
            ``a/b.txt``, by default that of ``data_prefix['img_path']``.
        image_key: Column of the image's path, relative to ``data_prefix['img_path']``.
        caption_key: Column of the caption.
        source: Name of the pairs in records of what was read, by default ``ann_file`` with its
            folder.
        skip_broken: Whether an image that is missing, broken, too small or too large is replaced by
            that of another pair, drawn at random, and counted; otherwise it is an error.
        min_pixels: Smallest width times height of an image.
        max_pixels: Largest width times height. Sizes are read before an image is decoded.
        **kwargs: Arguments of :class:`mmengine.dataset.BaseDataset`, such as ``data_root``,
            ``data_prefix=dict(img_path='images/')`` and ``pipeline``.

    Raises:
        FileNotFoundError: The annotation file does not exist.
        ImportError: The annotation file is Parquet and pyarrow is not installed.
        ValueError: The annotation file has another suffix, is malformed, lacks a column, has a row
            without an image path or with a caption that is no text, or has no usable row; or the
            limits of the size leave none.
    """

    data_list: Sequence[dict[str, Any]]
    """What the annotations say, until it is serialised."""
    left_out: dict[str, dict[str, int]]
    """For the source and each reason, the pairs left out when the annotations were read."""

    def __init__(
        self,
        ann_file: str = '',
        image_key: str = 'image',
        caption_key: str = 'caption',
        source: str | None = None,
        skip_broken: bool = True,
        min_pixels: int = 0,
        max_pixels: int = MAX_PIXELS,
        **kwargs: Any,
    ) -> None:
        check_pixel_limits(min_pixels, max_pixels)
        self.image_key = image_key
        self.caption_key = caption_key
        self._source = source
        self.skip_broken = skip_broken
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels
        self.left_out = {}
        self._skipped = SkipCounter()
        super().__init__(ann_file=ann_file, **kwargs)

    @property
    def source(self) -> str:
        """Name of the pairs in records of what was read."""
        return self._source or str(self._annotations)

    @property
    def _annotations(self) -> Path:
        return Path(self.ann_file or self.data_prefix.get('img_path', '') or self.data_root)

    def load_data_list(self) -> PackedRows:
        """Read the annotation file or the folder.

        Returns:
            One ``dict(img_path=..., caption=..., ann_row=...)`` for each pair.
        """
        path = self._annotations
        prefix = '' if path.is_dir() else self.data_prefix.get('img_path', '')
        pairs = PackedRows()
        left_out: Counter[str] = Counter()
        for place, row in read_rows(path, self.image_key, self.caption_key):
            if isinstance(row, UnusableSample):
                left_out[row.reason] += 1
                continue
            image = self._text(row, self.image_key, 'image_key', place)
            caption = self._text(row, self.caption_key, 'caption_key', place).strip()
            if not image.strip():
                raise ValueError(f'{path}, {place}: the image path is empty.')
            if caption:
                img_path = join_path(prefix, image.strip())
                pairs.append(dict(img_path=img_path, caption=caption, ann_row=place))
            else:
                left_out[EMPTY_CAPTION] += 1
        if not pairs:
            raise ValueError(
                f'{path} has no usable row (left out: {describe_counts(left_out)}); '
                'expected at least one image with a caption.'
            )
        if left_out:
            self.left_out = {self.source: dict(left_out)}
            total = left_out.total()
            print_log(
                f'{path}: left out {total} of {total + len(pairs)} rows: '
                f'{describe_counts(left_out)}.',
                logger='current',
                level=logging.WARNING,
            )
        return pairs

    def _serialize_data(self) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(self.data_list, PackedRows):  # some of them only, by `indices`
            return super()._serialize_data()
        serialized = self.data_list.serialized()
        self.data_list = []
        return serialized

    def __getitem__(self, idx: int) -> Any:
        """One pair after the pipeline.

        Args:
            idx: Index of the pair.

        Raises:
            FileNotFoundError: The image does not exist, and broken ones are not to be skipped.
            RuntimeError: None of ``max_refetch + 1`` pairs could be used.
            ValueError: The image cannot be used, and broken ones are not to be skipped.
        """
        self.full_init()
        self._skipped.clear()
        fault = None
        for _ in range(self.max_refetch + 1):
            try:
                return self.prepare_data(idx)
            except UnusableSample as error:
                fault = error
            if self.test_mode or not self.skip_broken:
                kind = FileNotFoundError if fault.reason == MISSING_IMAGE else ValueError
                raise kind(
                    f'{fault} Check data_root and data_prefix, replace the file or remove the row.'
                ) from fault
            self._skipped.add(self.source, fault)
            idx = self._rand_another()
        counts = describe_counts(self._skipped.counts()[self.source])
        raise RuntimeError(
            f'No usable pair in {self.max_refetch + 1} of {self.source} ({counts}), which were '
            f'drawn one after another; the last: {fault}'
        )

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline on one pair.

        Args:
            idx: Index of the pair.

        Raises:
            UnusableSample: The image is missing, broken or out of the limits of its size.
        """
        results = self.get_data_info(idx)
        results[READ_RECORD] = ReadRecord(
            self.source, f'{results["img_path"]} ({results["ann_row"]})', self._skipped.counts()
        )
        name = f'Image {results["img_path"]} ({results["ann_row"]} of {self._annotations})'
        return run_pipeline(self.pipeline, results, name, self.min_pixels, self.max_pixels)

    def _text(self, row: dict[str, Any], key: str, argument: str, place: str) -> str:
        if key not in row:
            raise ValueError(
                f'{self._annotations}, {place}: there is no column {key!r}, only {sorted(row)}; '
                f'set {argument} to the right one.'
            )
        value = '' if row[key] is None else row[key]
        if not isinstance(value, str):
            raise ValueError(
                f'{self._annotations}, {place}: column {key!r} is {value!r} of type '
                f'{type(value).__name__}; expected a string.'
            )
        return value
