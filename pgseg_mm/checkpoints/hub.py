"""Weights from the Hugging Face Hub, in the folder where ``huggingface_hub`` keeps them."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.logging import print_log

from pgseg_mm import limits
from pgseg_mm.messages import first_line, shown
from pgseg_mm.serialization.digests import sha256_of
from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.locating import HUB

from .hugging_face import (
    CONFIG_NAME,
    CONFIG_TEXT_NAME,
    WEIGHTS,
    find_weights,
    is_own_format,
    shard_names,
)
from .kept import cache_failures, cache_folder, locked
from .published import near_names, published_models, published_on_hub

REPOSITORY = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*', re.ASCII)
REVISION = re.compile(r'\w[\w./-]*', re.ASCII)
SHA256 = re.compile(r'[0-9a-f]{64}')
"""The hub keeps a large file under its SHA-256."""
MAX_TEXT_BYTES = 4 * limits.CONFIG_TEXT_CHARACTERS
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
NAMING_HEADERS = ('ETag', 'X-Linked-ETag', 'X-Repo-Commit')
FILE_NAME = re.compile(r'[A-Za-z0-9][\w.:-]*', re.ASCII)


class HubError(CheckpointError):
    """A model cannot be had from the Hugging Face Hub."""


class HubModel(NamedTuple):
    """A model on the hub."""

    repository: str
    """``owner/name``."""
    revision: str
    """Branch, tag or commit."""

    def __str__(self) -> str:
        revision = '' if self.revision == 'main' else f'@{self.revision}'
        return f'{HUB}{self.repository}{revision}'


def parse_name(source: str) -> HubModel:
    """The model that ``hf-hub:owner/name[@revision]`` names.

    Raises:
        HubError: If it is written in another way.
    """
    repository, _, revision = source.removeprefix(HUB).partition('@')
    revision = revision or 'main'
    if not REPOSITORY.fullmatch(repository) or not REVISION.fullmatch(revision) or '..' in source:
        raise HubError(
            f'{shown(source)} is no model of the Hugging Face Hub; write hf-hub:owner/name or '
            'hf-hub:owner/name@revision'
        )
    return HubModel(repository, revision)


@lru_cache
def download(model: HubModel) -> Path:
    """Folder with the config and the weights of a model, downloaded unless they are there.

    ``huggingface_hub`` does it: it goes on where a connection was cut, and without a network takes
    what is there. Only ``config.json`` and the first kind of weights of :data:`.WEIGHTS` that the
    model has are asked for. In a process, a branch stays at the commit that it was at.

    Args:
        model: The model.

    Raises:
        HubError: If it cannot be had.
    """
    import huggingface_hub as hub  # only who names a model of the hub pays for it

    with _hub_failures(model), _checked_headers():
        config = hub.hf_hub_download(model.repository, CONFIG_NAME, revision=model.revision)
        folder = Path(config).parent
    if not is_complete(folder):
        lock = cache_folder() / model.repository.replace('/', '--')
        with cache_failures(), locked(lock), _hub_failures(model), _checked_headers():
            if not is_complete(folder):  # another process may have been faster
                _download_weights(model, folder)
    return folder


def is_complete(folder: Path) -> bool:
    """Whether the weights of a snapshot are there, with all shards and what goes with them."""
    weights = find_weights(folder)
    if weights is None:
        return False
    return all((folder / name).is_file() for name in [*shard_names(weights), *_beside(folder)])


def _beside(folder: Path) -> list[str]:
    """What else is needed of a model than config.json and weights."""
    return [CONFIG_TEXT_NAME] if is_own_format(folder) else []


def _download_weights(model: HubModel, folder: Path) -> None:
    import huggingface_hub as hub

    commit = folder.name
    about = hub.HfApi().model_info(model.repository, revision=commit, files_metadata=True)
    sizes = {item.rfilename: item.size or 0 for item in about.siblings or []}
    first = next((name for name in WEIGHTS if name in sizes), None)
    if first is None:
        raise HubError(
            f'{model} has none of the files {", ".join(WEIGHTS)}; weights of other kinds are not '
            'read'
        )

    def download(name: str) -> Path:
        return Path(hub.hf_hub_download(model.repository, name, revision=commit))

    path = download(first) if first.endswith('.json') else None
    names = [*_beside(folder), *([first] if path is None else shard_names(path))]
    if absent := [name for name in names if name not in sizes]:
        raise HubError(f'{model} lacks files that its {first} names: {", ".join(absent[:3])}')
    if sizes.get(CONFIG_TEXT_NAME, 0) > MAX_TEXT_BYTES and CONFIG_TEXT_NAME in names:
        raise HubError(f'{model} has a {CONFIG_TEXT_NAME} of {sizes[CONFIG_TEXT_NAME]} bytes')
    _announce(model, sum(sizes[name] for name in names), _card_license(about))
    for name in names:
        download(name)


def _announce(model: HubModel, size: int, card_license: str | None) -> None:
    """Say what is downloaded, and under which licence; it is said at the download alone."""
    published = published_on_hub(model.repository)
    if published is not None:
        terms = published.license + (f', {published.license_url}' if published.license_url else '')
    else:
        terms = card_license or 'its model card names none'
    print_log(
        f'{model} is downloaded ({size / 1e6:.0f} MB). Its licence: {shown(terms)}',
        logger='current',
    )


def _card_license(about: Any) -> str | None:
    card = getattr(about, 'card_data', None)
    return str(card.get('license')) if card is not None and card.get('license') else None


def verify(path: Path) -> None:
    """Compare a file with its SHA-256 by the hub, if it lies where ``huggingface_hub`` keeps it.

    Raises:
        HubError: If it is another; it is removed, so that the next call downloads it.
    """
    blob = path.resolve()
    if blob.parent.name != 'blobs' or not SHA256.fullmatch(blob.name):
        return
    found = sha256_of(blob)
    if found != blob.name:
        path.unlink()
        blob.unlink()
        download.cache_clear()
        raise HubError(
            f'{path.name} is not what the hub says: its SHA-256 is {found}, expected {blob.name}. '
            f'It was removed from {blob.parent.parent}; run this again to download it'
        )


def known_sha256(path: Path) -> str:
    """SHA-256 of a file: as the hub says where it keeps the file, else computed."""
    blob = path.resolve()
    known = blob.parent.name == 'blobs' and SHA256.fullmatch(blob.name)
    return blob.name if known else sha256_of(path)


@contextmanager
def _checked_headers() -> Iterator[None]:
    """Refuse answers whose headers would be names of files outside the cache.

    ``huggingface_hub`` names files after them, and does not look at them before.
    """
    from huggingface_hub import get_session

    def check(response: Any) -> None:
        for header in NAMING_HEADERS:
            value = response.headers.get(header)
            if value is not None and not FILE_NAME.fullmatch(value.removeprefix('W/').strip('"')):
                raise HubError(
                    f'{shown(response.url)} answers with {header} {shown(value)}, which is no name '
                    'of a file; look at HF_ENDPOINT'
                )

    hooks = get_session().event_hooks['response']
    hooks.append(check)
    try:
        yield
    finally:
        hooks.remove(check)


@contextmanager
def _hub_failures(model: HubModel) -> Iterator[None]:
    """Say in one sentence what has failed, and what to do."""
    from huggingface_hub import constants, errors

    where = constants.ENDPOINT
    try:
        yield
    except CheckpointError:
        raise
    except errors.GatedRepoError as error:
        raise HubError(
            f'{model} is for users who have accepted its terms: accept them on '
            f'{where}/{model.repository}, then run hf auth login, or set HF_TOKEN'
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(f'{model} is not on {where}, or private: {_advice(model)}') from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f'{model.repository} on {where} has no {model.revision}') from error
    except errors.LocalEntryNotFoundError as error:
        raise HubError(
            _refused(model, error, where) or _unreachable(model, error, where)
        ) from error
    except errors.EntryNotFoundError as error:
        raise HubError(f'{model} has no {CONFIG_NAME}, so it is no GroupViT') from error
    except (OSError, ValueError, errors.HTTPError) as error:
        raise HubError(_failure(model, error, where)) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def status_of(error: BaseException) -> int | None:
    """Status of the hub's answer that an error came from, if it came from one."""
    found = (
        getattr(getattr(cause, 'response', None), 'status_code', None) for cause in _chain(error)
    )
    return next((status for status in found if status is not None), None)


def _refused(model: HubModel, error: BaseException, where: str) -> str | None:
    if (status := status_of(error)) not in (401, 403):
        return None
    return (
        f'{where} refuses {model} ({status}): log in with hf auth login, or set HF_TOKEN to a '
        'token that may read it'
    )


def _unreachable(model: HubModel, error: BaseException, where: str) -> str:
    return (
        f'{model} is not on this disk and {where} cannot be asked ({first_cause(error)}); look at '
        'the network, HF_ENDPOINT and HF_HUB_OFFLINE, or download the model elsewhere and give '
        'its folder'
    )


def _failure(model: HubModel, error: BaseException, where: str) -> str:
    if (refused := _refused(model, error, where)) is not None:
        return refused
    number = getattr(error, 'errno', None)
    if number in NO_ROOM or number in NOT_WRITABLE:
        from huggingface_hub import constants

        what = 'is full' if number in NO_ROOM else 'cannot be written to'
        return (
            f'{model} cannot be kept: the disk of {constants.HF_HUB_CACHE} {what} '
            f'({first_line(error)}); set HF_HOME to a folder with room that you may write to'
        )
    return (
        f'{model} could not be downloaded from {where} ({first_cause(error)}); run this again, '
        'files that are complete are not downloaded again'
    )


def _advice(model: HubModel) -> str:
    """Names that are near to one that is unknown, and how to log in."""
    known = [name.removeprefix(HUB) for name in _hub_names()]
    near = near_names(model.repository, known)
    return f'{near} For a private one run hf auth login, or set HF_TOKEN'


def _hub_names() -> list[str]:
    return [model.hub for model in published_models().values() if model.hub]


def first_cause(error: BaseException) -> str:
    """What was the beginning of a failure, on one line."""
    *_, first = _chain(error)
    return f'{type(first).__name__}: {first_line(first)}' if str(first) else type(first).__name__
