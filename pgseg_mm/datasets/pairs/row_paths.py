"""Paths of images as annotation files have them, which must not lead anywhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache

from mmengine.fileio import join_path

from pgseg_mm import limits
from pgseg_mm.messages import shown

from .skips import NO_PATH, OUTSIDE, UnusableSample


class RowPaths:
    """Joins paths to the folder of the images, and refuses those that are none or leave it.

    Args:
        prefix: Folder that relative paths start from, or an address of mmengine's backends.
        roots: Folders that hold all images; none for paths that may be anywhere.
    """

    def __init__(self, prefix: str, roots: Sequence[str]) -> None:
        self._prefix = prefix
        self._roots = list(roots)
        self._plain_roots = [os.path.abspath(root) for root in roots]
        self._real_roots = [os.path.realpath(root) for root in roots]

    def join(self, path: str, name: str) -> str:
        """The path of an image.

        Args:
            path: As the annotation file has it.
            name: What to call its row in messages.

        Raises:
            UnusableSample: It is an address, or too long, or leaves the folders.
        """
        if '://' in path:
            raise UnusableSample(
                NO_PATH,
                f'{name} has the address {shown(path)}; expected a file, nothing is fetched.',
            )
        if len(path) > limits.MAX_PATH_CHARACTERS or '\0' in path or not _is_encodable(path):
            raise UnusableSample(NO_PATH, f'{name} has {shown(path)}, which no file can be called.')
        joined = join_path(self._prefix, path)
        if self._roots and (os.path.isabs(path) or '..' in path) and self._leaves(path, joined):
            raise self._outside(name, path)
        return joined

    def check_links(self, path: str, name: str) -> None:
        """Look where links lead, before a file is read.

        Args:
            path: What :meth:`join` returned.
            name: What to call the file in messages.

        Raises:
            UnusableSample: They lead out of the folders.
        """
        if not self._roots or '://' in path:
            return
        if os.path.islink(path):
            real = os.path.realpath(path)
        else:
            folder, base = os.path.split(path)
            real = os.path.join(_real_folder(folder), base)
        if not _is_within(real, self._real_roots):
            raise self._outside(name, path)

    def _leaves(self, path: str, joined: str) -> bool:
        if '://' in self._prefix:
            return os.path.isabs(path) or os.path.normpath(path).startswith('..')
        path = os.path.abspath(joined)
        if _is_within(path, self._plain_roots):
            return False
        folder, base = os.path.split(path)  # the root, or what is above it, may be a link
        return not _is_within(os.path.join(_real_folder(folder), base), self._real_roots)

    def _outside(self, name: str, path: str) -> UnusableSample:
        return UnusableSample(
            OUTSIDE,
            f'{name} has {shown(path)}, which leads out of {shown(self._roots[0])}; move the file '
            'there, or set allow_outside=True if you trust the annotations.',
        )


def _is_within(path: str, roots: Sequence[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip(os.sep) + os.sep) for root in roots)


def _is_encodable(path: str) -> bool:
    try:
        if not path.isascii():
            os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


@lru_cache(maxsize=2**14)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
