"""Tar shards of image-text pairs as img2dataset writes them: names, and reading one of them.

webdataset opens commands and splits the names of members, but its own reader
(``tariterators``) is not used. It reads every member to its declared size, with no limit for what
a header asks for or a compressed shard unpacks to, and cannot leave samples out without reading
them, so that a resumed run would read each shard again from its beginning. Of a shard that is cut
off it yields the last sample as if it were whole. Its handlers of errors do not tell a damaged
shard from a disk that failed for a moment, and count nothing.
"""

from __future__ import annotations

import glob
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from types import ModuleType

from pgseg_mm import limits
from pgseg_mm.files.reading import FileAccessError, is_of_system, read_file, retrying
from pgseg_mm.messages import described, shown

from .pair_files import IMAGE_SUFFIXES
from .skips import (
    BROKEN_JSON,
    BROKEN_SHARD,
    CAPTION_NOT_UTF8,
    EMPTY_CAPTION,
    MISSING_CAPTION,
    MISSING_IMAGE,
    TOO_MANY_BYTES,
    UnusableSample,
)
from .tar_files import PIPE, READ_ERRORS, members, open_tar

IMAGE_MEMBERS = tuple(suffix.removeprefix('.') for suffix in IMAGE_SUFFIXES)
MEMBERS = (*IMAGE_MEMBERS, 'txt', 'json')


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
            wildcards (``*.tar``) or environment variables, or a command that writes a shard,
            ``pipe:...``, with braces.

    Returns:
        Paths and commands; those of a wildcard in alphabetical order.

    Raises:
        FileNotFoundError: A path does not exist, or a wildcard matches nothing.
        ValueError: There is no pattern, or a shard is named twice.
    """
    import_webdataset()
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    shards: list[str] = []
    for pattern in patterns:
        if pattern.startswith(PIPE):
            shards.extend(_expand_braces(pattern))
        elif os.path.isfile(pattern):  # False of what is too long for a name, too
            shards.append(pattern)
        else:
            names = _expand_braces(os.path.expandvars(pattern))
            shards.extend(path for name in names for path in _matching_paths(name, pattern))
    if not shards:
        raise ValueError(f'The list of shards {patterns} is empty; expected at least one pattern.')
    twice = [shard for shard, number in Counter(shards).items() if number > 1]
    if twice:
        raise ValueError(f'{len(twice)} shards are named twice in {patterns}: {twice[:3]}.')
    return shards


def _expand_braces(pattern: str) -> Iterator[str]:
    """As webdataset, whose own function also splits at '::' and takes out backslashes."""
    from braceexpand import braceexpand  # which webdataset brings along

    return braceexpand(pattern, escape=False)


def _matching_paths(name: str, pattern: str) -> list[str]:
    if Path(name).is_file():
        return [name]
    paths = sorted(path for path in glob.glob(name, recursive=True) if Path(path).is_file())
    if Path(name).is_dir():
        raise FileNotFoundError(
            f'{shown(name)} is a folder; name the shards in it, such as {shown(name)}/*.tar'
        )
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
            content = read_file(str(stats), str(stats), max_bytes=limits.MAX_STATS_BYTES)
            number = json.loads(content.decode())['successes']
            if not isinstance(number, int) or number < 0:
                raise ValueError(f'successes is {described(number)}')
            total += number
        except (KeyError, RecursionError, TypeError, ValueError) as error:
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
    refused: dict[str, str] = field(default_factory=dict)
    """Why members were not read, by suffix."""

    @property
    def name(self) -> str:
        """The shard and the key within it, as they can be printed."""
        return f'{shown(self.shard)}/{shown(self.key)}'

    @property
    def size(self) -> int:
        """Bytes of all members."""
        return sum(map(len, self.members.values()))

    def has(self, suffix: str) -> bool:
        """Whether there is a member with this suffix, read or refused."""
        return suffix in self.members or suffix in self.refused

    def add(self, suffix: str, archive: tarfile.TarFile | None, member: tarfile.TarInfo) -> None:
        """Read a member, or note that it is too large or sparse; without an archive, skip it."""
        limit = (
            limits.MAX_TEXT_MEMBER_BYTES if suffix in ('txt', 'json') else limits.MAX_MEMBER_BYTES
        )
        if member.issparse():
            self.refused[suffix] = f'is stored as a sparse file of {shown(member.size)} bytes'
        elif member.size > limit:
            self.refused[suffix] = f'has {shown(member.size)} bytes, more than {limit}'
        else:
            file = archive.extractfile(member) if archive is not None else None
            self.members[suffix] = file.read() if file else b''

    def pair(self, caption_key: str) -> tuple[bytes, str]:
        """The image's file and the caption.

        Args:
            caption_key: Key of the caption in the ``json`` member, where there is no ``txt``.

        Raises:
            UnusableSample: Either is missing, or the caption is empty or not readable as text.
        """
        image = next((self.members[kind] for kind in IMAGE_MEMBERS if kind in self.members), None)
        if self.refused and (image is None or not self.members.keys() & {'txt', 'json'}):
            [suffix, fault], *_ = self.refused.items()
            raise UnusableSample(TOO_MANY_BYTES, f'The .{suffix} of {self.name} {fault}.')
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
            caption = caption_of(self.members['json'].decode('utf-8-sig'), caption_key)
            if caption is not None:
                caption.encode()  # JSON may name halves of letters
            return caption
        except UnicodeError as error:
            raise UnusableSample(
                CAPTION_NOT_UTF8, f'The caption of {self.name} is not UTF-8 text.'
            ) from error
        except (RecursionError, ValueError) as error:
            raise UnusableSample(
                BROKEN_JSON, f'The json of {self.name} is malformed: {shown(error)}.'
            ) from error


def caption_of(text: str, caption_key: str) -> str | None:
    """The caption in a JSON object, or None if there is none."""
    record = json.loads(text)
    caption = record.get(caption_key) if isinstance(record, dict) else None
    return caption if isinstance(caption, str) else None


def read_shard(shard: str, skip: int = 0) -> Iterator[RawSample]:
    """Samples of a shard, in their order; nothing is decoded.

    Consecutive members whose names agree up to the first dot form a sample, as in webdataset. Of a
    file, the contents of what is left out are not even read; nor are sparse members, and those
    above the limits of :mod:`pgseg_mm.limits`.

    Args:
        shard: Path of a tar file, or a command, ``pipe:...``, that writes one.
        skip: Samples to leave out at the beginning.

    Raises:
        FileAccessError: The system cannot read the file, several times where that may pass.
        UnusableSample: The shard does not exist, is truncated or damaged, or its command failed. A
            sample that is cut off does not come; those before have come.
    """
    name = f'Shard {shown(shard)}'
    samples: Iterator[RawSample] = iter(())

    def first() -> list[RawSample]:
        nonlocal samples
        samples = _read_samples(shard, skip)
        return list(islice(samples, 1))

    def following() -> list[RawSample]:
        """The next sample; where the system fails, the shard is opened anew and read up to it."""
        try:
            return list(islice(samples, 1))
        except OSError as error:
            if not is_of_system(error):
                raise
            return retrying(first, name, is_of_system)

    read: Callable[[], list[RawSample]] = partial(retrying, first, name, is_of_system)
    try:
        while raw := read():
            yield raw[0]
            skip += 1
            read = following
    except FileAccessError:
        raise
    except FileNotFoundError as error:
        raise UnusableSample(BROKEN_SHARD, f'{name} does not exist.') from error
    except READ_ERRORS as error:
        raise UnusableSample(BROKEN_SHARD, f'{name} cannot be read on: {shown(error)}') from error


def _read_samples(shard: str, skip: int) -> Iterator[RawSample]:
    group: RawSample | None = None
    number = -1  # of the group's sample
    fault: Exception | None = None
    try:
        with open_tar(shard) as archive:
            for member in members(archive):
                key, suffix = _split_name(member)
                if key is None:
                    continue
                if group is None or key != group.key or group.has(suffix):
                    if group is not None and number >= skip:
                        yield group
                    group = RawSample(shard, key, {})
                    number += 1
                if suffix in MEMBERS:
                    group.add(suffix, archive if number >= skip else None, member)
    except READ_ERRORS as error:
        fault = error
    if fault is not None and is_of_system(fault):
        raise fault
    if group is not None and number >= skip and (fault is None or _is_pair(group)):
        yield group
    if fault is not None:
        raise fault


def _split_name(member: tarfile.TarInfo) -> tuple[str | None, str]:
    name = member.name
    if not member.isreg() or name.startswith('__') or len(name) > limits.MAX_PATH_CHARACTERS:
        return None, ''
    key, suffix = import_webdataset().tariterators.base_plus_ext(name)
    return key, (suffix or '').lower()


def _is_pair(sample: RawSample) -> bool:
    kinds = sample.members.keys()
    return bool(kinds & set(IMAGE_MEMBERS) and kinds & {'txt', 'json'})
