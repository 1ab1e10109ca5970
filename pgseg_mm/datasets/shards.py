"""Tar shards of image-text pairs as img2dataset writes them: names, and reading one of them."""

from __future__ import annotations

import glob
import json
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from .skips import (
    BROKEN_JSON,
    BROKEN_SHARD,
    CAPTION_NOT_UTF8,
    EMPTY_CAPTION,
    MISSING_CAPTION,
    MISSING_IMAGE,
    UnusableSample,
)

IMAGE_MEMBERS = ('jpg', 'jpeg', 'png', 'webp')
MEMBERS = (*IMAGE_MEMBERS, 'txt', 'json')
PIPE = 'pipe:'
READ_ERRORS = (EOFError, OSError, tarfile.TarError, zlib.error)


def import_webdataset() -> ModuleType:
    """The library webdataset, which is not installed by default.

    Raises:
        ImportError: It is missing.
    """
    try:
        import webdataset
    except ImportError as error:
        raise ImportError(
            'Tar shards need webdataset, which is not installed; run: pip install "pgseg-mm[data]"'
        ) from error
    return webdataset


def expand_shards(patterns: str | Sequence[str]) -> list[str]:
    """Names of shards.

    Args:
        patterns: One pattern or several: a path with braces (``{00000..00331}.tar``) or with
            wildcards (``*.tar``), or a command that writes a shard, ``pipe:...``, with braces.

    Returns:
        Paths and commands; those of a wildcard in alphabetical order.

    Raises:
        FileNotFoundError: A path does not exist, or a wildcard matches nothing.
        ValueError: There is no pattern, or a shard is named twice.
    """
    expand = import_webdataset().shardlists.expand_urls
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    shards: list[str] = []
    for pattern in patterns:
        names = expand(pattern)
        if not pattern.startswith(PIPE):
            names = [path for name in names for path in _matching_paths(name, pattern)]
        shards.extend(names)
    if not shards:
        raise ValueError(f'The list of shards {patterns} is empty; expected at least one pattern.')
    twice = [shard for shard, number in Counter(shards).items() if number > 1]
    if twice:
        raise ValueError(f'{len(twice)} shards are named twice in {patterns}: {twice[:3]}.')
    return shards


def _matching_paths(name: str, pattern: str) -> list[str]:
    if Path(name).is_file():
        return [name]
    paths = sorted(path for path in glob.glob(name, recursive=True) if Path(path).is_file())
    if not paths:
        raise FileNotFoundError(
            f'No shard matches {name!r} (of the pattern {pattern!r}); '
            'check the path and the range of numbers.'
        )
    return paths


def count_by_stats(shards: Sequence[str]) -> int | None:
    """Samples in shards by img2dataset's ``00000_stats.json`` beside ``00000.tar``.

    Args:
        shards: Paths and commands.

    Returns:
        The sum of the successes; None where a shard has no such file.

    Raises:
        ValueError: Such a file is malformed.
    """
    total = 0
    for shard in shards:
        stats = Path(shard).with_name(f'{Path(shard).stem}_stats.json')
        if shard.startswith(PIPE) or not stats.is_file():
            return None
        try:
            total += int(json.loads(stats.read_text(encoding='utf-8'))['successes'])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{stats} has no number of 'successes', as img2dataset writes it; correct or "
                'remove it.'
            ) from error
    return total


@dataclass
class RawSample:
    """The members of a shard that share a key, as bytes.

    Args:
        shard: Path or command of the shard.
        key: What the names of the members share.
        members: Contents by suffix, of :data:`MEMBERS`.
    """

    shard: str
    key: str
    members: dict[str, bytes]

    @property
    def name(self) -> str:
        """The shard and the key within it."""
        return f'{self.shard}/{self.key}'

    def pair(self, caption_key: str) -> tuple[bytes, str]:
        """The image's file and the caption.

        Args:
            caption_key: Key of the caption in the ``json`` member, where there is no ``txt``.

        Raises:
            UnusableSample: Either is missing, or the caption is empty or not readable as text.
        """
        image = next((self.members[kind] for kind in IMAGE_MEMBERS if kind in self.members), None)
        if image is None:
            raise UnusableSample(MISSING_IMAGE, f'{self.name} has no image.')
        caption = self._caption(caption_key)
        if caption is None:
            raise UnusableSample(MISSING_CAPTION, f'{self.name} has no caption.')
        if not caption.strip():
            raise UnusableSample(EMPTY_CAPTION, f'{self.name} has an empty caption.')
        return image, caption.strip()

    def _caption(self, caption_key: str) -> str | None:
        try:
            if 'txt' in self.members:
                return self.members['txt'].decode('utf-8-sig')
            if 'json' not in self.members:
                return None
            record = json.loads(self.members['json'].decode('utf-8-sig'))
        except UnicodeDecodeError as error:
            raise UnusableSample(
                CAPTION_NOT_UTF8, f'The caption of {self.name} is not UTF-8 text.'
            ) from error
        except json.JSONDecodeError as error:
            raise UnusableSample(
                BROKEN_JSON, f'The json of {self.name} is malformed: {error}.'
            ) from error
        caption = record.get(caption_key) if isinstance(record, dict) else None
        return caption if isinstance(caption, str) else None


def read_shard(shard: str, skip: int = 0) -> Iterator[RawSample]:
    """Samples of a shard, in their order; nothing is decoded.

    Consecutive members whose names agree up to the first dot form a sample, as in webdataset. Of a
    file, the contents of what is left out are not even read.

    Args:
        shard: Path of a tar file, or a command, ``pipe:...``, that writes one.
        skip: Samples to leave out at the beginning.

    Raises:
        UnusableSample: The shard cannot be opened, is truncated or damaged, or its command failed.
            A sample that is cut off does not come; those before have come.
    """
    group: RawSample | None = None
    number = -1  # of the group's sample
    fault: Exception | None = None
    try:
        with _open_shard(shard) as archive:
            for member in iter(archive.next, None):
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep all
                key, suffix = _split_name(member)
                if key is None:
                    continue
                if group is None or key != group.key or suffix in group.members:
                    if group is not None and number >= skip:
                        yield group
                    group = RawSample(shard, key, {})
                    number += 1
                if suffix in MEMBERS:
                    file = archive.extractfile(member) if number >= skip else None
                    group.members[suffix] = file.read() if file else b''
    except READ_ERRORS as error:
        fault = error
    if group is not None and number >= skip and (fault is None or _is_pair(group)):
        yield group
    if fault is not None:
        raise UnusableSample(BROKEN_SHARD, f'Shard {shard} cannot be read on: {fault}') from fault


def _split_name(member: tarfile.TarInfo) -> tuple[str | None, str]:
    if not member.isreg() or member.name.startswith('__'):
        return None, ''
    key, suffix = import_webdataset().tariterators.base_plus_ext(member.name)
    return key, (suffix or '').lower()


def _is_pair(sample: RawSample) -> bool:
    kinds = sample.members.keys()
    return bool(kinds & set(IMAGE_MEMBERS) and kinds & {'txt', 'json'})


class _StrictTarInfo(tarfile.TarInfo):
    """Where tarfile ends quietly at a damaged header or without an end marker, an error."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _StrictTarInfo:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f'{error} at byte {archive.offset}') from error


@contextmanager
def _open_shard(shard: str) -> Iterator[tarfile.TarFile]:
    if shard.startswith(PIPE):
        with _open_pipe(shard) as archive:
            yield archive
    else:
        with tarfile.open(shard, 'r:*', tarinfo=_StrictTarInfo) as archive:
            yield archive


@contextmanager
def _open_pipe(shard: str) -> Iterator[tarfile.TarFile]:
    # The package has a function of the module's name.
    gopen = import_module('webdataset.gopen')
    stream = gopen.gopen(shard)
    # Its exit status is looked at in the end: before, how much was read would depend on timing.
    gopen.set_options(stream, ignore_errors=True)
    fault: Exception | None = None
    try:
        with tarfile.open(fileobj=stream, mode='r|*', tarinfo=_StrictTarInfo) as archive:
            yield archive
    except READ_ERRORS as error:
        fault = error
    except BaseException:  # the reader has gone
        stream.proc.terminate()
        stream.close()
        raise
    while stream.read(2**20):  # the padding behind the end
        pass
    stream.close()
    if stream.status != 0:
        raise OSError(f'the command ended with exit status {stream.status}') from fault
    if fault is not None:
        raise fault
