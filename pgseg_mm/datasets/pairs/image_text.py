"""Image-text pairs listed in an annotation file, or lying in a folder."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmseg.registry import DATASETS

from pgseg_mm import limits
from pgseg_mm.errors import BrokenSampleError, MissingSampleError, UnusableDataError
from pgseg_mm.messages import shown

from ..sampling.sample_key import READ_RECORD, ReadRecord
from .packed_rows import PackedRows
from .pair_files import read_rows
from .parquet_rows import ParquetRows
from .row_pairs import RowPairs
from .row_paths import RowPaths
from .skips import (
    BROKEN_IMAGE,
    CAPTION_NOT_UTF8,
    EMPTY_CAPTION,
    MISSING_CAPTION,
    MISSING_IMAGE,
    TOO_MANY_BYTES,
    SkipCounter,
    UnusableSample,
    check_pixel_limits,
    describe_counts,
    read_image_bytes,
    run_pipeline,
    suffix_of,
)

ALWAYS_LEFT_OUT = (CAPTION_NOT_UTF8, EMPTY_CAPTION, MISSING_CAPTION, MISSING_IMAGE)
"""Reasons for which pairs are left out of the annotations even if nothing is to be skipped."""


@DATASETS.register_module()
class ImageTextDataset(BaseDataset):
    """Images with captions, from a JSON, JSON-lines, CSV, TSV or Parquet file, or from a folder.

    An item, before the pipeline, holds ``img_path``, ``caption``, ``ann_row`` (where the pair is in
    the annotation file, such as 'line 7'), mmengine's ``sample_idx`` and, as ``read_record``, a
    :class:`ReadRecord` of what was skipped on the way to it. Pairs without an image, without a
    caption or with an empty one are left out when the annotations are read, counted in
    :attr:`left_out` and in a warning; so are, unless ``skip_broken`` is false, rows whose path is
    an address or leads out of the folders of the images, and rows of JSON that are nested too
    deeply or too long. Everything else that is wrong with the annotations is an error.

    Args:
        ann_file: ``.json`` (a list of objects), ``.jsonl`` (an object a line), ``.csv`` or ``.tsv``
            (with a header line), ``.parquet``; or a folder with the caption of ``a/b.jpg`` in
            ``a/b.txt``, by default that of ``data_prefix['img_path']``.
        image_key: Column of the image's path, relative to ``data_prefix['img_path']``. In Parquet
            it may also hold the image itself, as bytes or as a struct of ``bytes`` and ``path``.
        caption_key: Column of the caption, or of a list of captions, each of which makes a pair.
        source: Name of the pairs in records of what was read, by default ``ann_file`` with its
            folder.
        skip_broken: Whether an image that is missing, broken, too small or too large is replaced by
            that of another pair, drawn at random, and counted; otherwise it is an error.
        min_pixels: Smallest width times height of an image.
        max_pixels: Largest width times height. Sizes are read before an image is decoded.
        allow_outside: Whether absolute paths, ``..`` and symbolic links may lead out of
            ``data_root`` and ``data_prefix['img_path']``. Where neither is given they may.
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
        max_pixels: int = limits.MAX_PAIR_PIXELS,
        allow_outside: bool = False,
        **kwargs: Any,
    ) -> None:
        check_pixel_limits(min_pixels, max_pixels)
        self.image_key = image_key
        self.caption_key = caption_key
        self._source = source
        self.skip_broken = skip_broken
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels
        self.allow_outside = allow_outside
        self.left_out = {}
        self._skipped = SkipCounter()
        super().__init__(ann_file=ann_file, **kwargs)

    @property
    def source(self) -> str:
        """Name of the pairs in records of what was read."""
        return self._source or str(self._annotations)

    @cached_property
    def _annotations(self) -> Path:
        return Path(self.ann_file or self.data_prefix.get('img_path', '') or self.data_root)

    def load_data_list(self) -> PackedRows:
        """Read the annotation file or the folder.

        Returns:
            One ``dict(img_path=..., caption=..., ann_row=...)`` for each pair.
        """
        path = self._annotations
        pairs = PackedRows()
        left_out = SkipCounter()
        first: UnusableSample | None = None
        rows = RowPairs(path, self.image_key, self.caption_key, self._paths)
        keys = (self.image_key, self.caption_key)
        for place, row in read_rows(path, *keys, self.allow_outside):
            faults = []
            for pair in [row] if isinstance(row, UnusableSample) else rows.pairs(row, place):
                if isinstance(pair, UnusableSample):
                    faults.append(pair)
                else:
                    pairs.append(pair)
            for fault in faults:
                if not self.skip_broken and fault.reason not in ALWAYS_LEFT_OUT:
                    raise ValueError(f'{fault} Correct or remove the row.')
                first = first or fault
                left_out.add(self.source, fault)
        counts = left_out.counts().get(self.source, {})
        if not pairs:
            such_as = '.' if first is None else f'; the first: {first}'
            raise ValueError(
                f'{shown(path)} has no usable row (left out: {describe_counts(counts)}); '
                f'expected at least one image with a caption{such_as}'
            )
        if counts:
            self.left_out = {self.source: counts}
            total = sum(counts.values())
            print_log(
                f'{shown(path)}: left out {total} of {total + len(pairs)} rows: '
                f'{describe_counts(counts)}.',
                logger='current',
                level=logging.WARNING,
            )
        return pairs

    @cached_property
    def _paths(self) -> RowPaths:
        path = self._annotations
        prefix = self.data_prefix.get('img_path', '')
        roots = [str(path)] if path.is_dir() else []
        roots += [root for root in dict.fromkeys((self.data_root, prefix)) if root]
        local = [root for root in roots if '://' not in root]
        return RowPaths('' if path.is_dir() else prefix, [] if self.allow_outside else local)

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
                kind = MissingSampleError if fault.reason == MISSING_IMAGE else BrokenSampleError
                raise kind(
                    f'{fault} Check data_root and data_prefix, replace the file or remove the row.'
                ) from fault
            self._skipped.add(self.source, fault)
            idx = self._rand_another()
        counts = describe_counts(self._skipped.counts()[self.source])
        raise UnusableDataError(
            f'No usable pair in {self.max_refetch + 1} of {shown(self.source)} ({counts}), which '
            f'were drawn one after another; the last: {fault}'
        )

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline on one pair.

        Args:
            idx: Index of the pair.

        Raises:
            FileAccessError: The system cannot read the image, several times where that may pass.
            UnusableSample: The image is missing, broken or out of the limits of its size, or a link
                leads out of the folders.
        """
        results = self.get_data_info(idx)
        path = shown(results['img_path'])
        results[READ_RECORD] = ReadRecord(
            self.source, f'{path} ({results["ann_row"]})', self._skipped.counts()
        )
        name = self._name_of(results)
        if 'img_row' in results:
            results['img_bytes'] = self._embedded_image(results)
            del results['img_row']
        else:
            self._paths.check_links(results['img_path'], name)
        return run_pipeline(self.pipeline, results, name, self.min_pixels, self.max_pixels)

    def sha256_of_pairs(self) -> str:
        """Checksum of all pairs, by which to tell whether they have changed: of captions and of
        where the images are, not of the images.
        """
        return hashlib.sha256(self.data_bytes).hexdigest()

    def read_image_bytes(self, info: dict[str, Any]) -> tuple[bytes, str]:
        """The file of an image, and the suffix of its name, in lower case and without the dot.

        Args:
            info: What ``get_data_info`` returned.

        Raises:
            FileAccessError: The system cannot read it, several times where that may pass.
            UnusableSample: It is missing, or none to read, or a link leads out of the folders.
        """
        path = info['img_path']
        if 'img_row' in info:
            image = self._embedded_image(info)
            return image, suffix_of(image, os.path.splitext(path.rpartition('#')[2])[1])
        self._paths.check_links(path, self._name_of(info))
        return read_image_bytes(path, None, self._name_of(info)), os.path.splitext(path)[1].lower()[
            1:
        ]

    def _name_of(self, info: dict[str, Any]) -> str:
        path, place = shown(info['img_path']), info['ann_row']
        return f'Image {path} ({place} of {self._shown_annotations})'

    @cached_property
    def _shown_annotations(self) -> str:
        return shown(self._annotations)

    def _embedded_image(self, info: dict[str, Any]) -> bytes:
        name = self._name_of(info)
        file = self._parquet
        try:
            image = file.image(info['img_row'], self.image_key)
        except ValueError as error:
            raise UnusableSample(
                BROKEN_IMAGE,
                f'{name} is in a row group that cannot be read: {shown(error.__cause__ or error)}.',
            ) from error
        if image is None:
            raise UnusableSample(MISSING_IMAGE, f'{name} is not in the file.')
        if len(image) > limits.MAX_MEMBER_BYTES:
            raise UnusableSample(
                TOO_MANY_BYTES,
                f'{name} has {len(image)} bytes, more than {limits.MAX_MEMBER_BYTES}.',
            )
        return image

    @cached_property
    def _parquet(self) -> ParquetRows:
        return ParquetRows(self._annotations)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != '_parquet'}
