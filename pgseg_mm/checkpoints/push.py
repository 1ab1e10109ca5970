"""Checkpoints back to a hub: weights, config and a model card, as a folder or uploaded."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mmengine.logging import print_log
from torch import Tensor

from pgseg_mm.cli.config_files import read_config_file
from pgseg_mm.messages import first_of, shown
from pgseg_mm.serialization.atomic_files import write_text
from pgseg_mm.serialization.loading import Checkpoint, CheckpointError, load_checkpoint
from pgseg_mm.serialization.locating import HUB

from .architecture import Architecture, model_of_config
from .carried_config import config_of
from .hub import HubError, first_cause, parse_name, status_of
from .hugging_face import mm_to_hugging_face, save_hugging_face
from .mm_checkpoint import GUESSED_HEADS, META_KEY, architecture_of, origin_of
from .model_card import BenchmarkTable, Card, read_benchmark_table
from .own_folder import LIBRARY, flat_config, flat_text, save_own_folder
from .published import PublishedModel, published_models
from .release import check_origin

HubFormat = Literal['pgseg', 'transformers']
HUB_FORMATS: tuple[HubFormat, ...] = ('pgseg', 'transformers')


class About(NamedTuple):
    """What a checkpoint does not tell of itself; what is not given is left out of its card."""

    license: str | None = None
    """Of the hub's list, such as ``cc-by-4.0``, or ``other`` with a name and a link."""
    license_name: str | None = None
    license_link: str | None = None
    datasets: tuple[str, ...] = ()
    """What it was trained on."""
    metrics: str | PathLike[str] | None = None
    """``zero_shot.json`` of ``tools/analysis_tools/zero_shot_table.py``."""


NOTHING = About()


def save_for_hub(
    source: str | PathLike[str],
    folder: str | PathLike[str],
    about: About = NOTHING,
    format: HubFormat = 'pgseg',
    config: str | PathLike[str] | None = None,
    trust: bool = False,
    name: str | None = None,
) -> Path:
    """Write a checkpoint as a folder that a hub takes and that loads again.

    Args:
        source: What :func:`.locate` takes.
        folder: Folder to write, which must be empty or not there.
        about: For the model card.
        format: ``'pgseg'`` for a folder of this project; ``'transformers'`` for
            ``GroupViTModel.from_pretrained``, which has no prototypes.
        config: Config file of the model; by default the one that the checkpoint carries.
        trust: Whether to run code that the checkpoint may hold.
        name: What it is to be loaded by, for the card; by default the folder.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If there is no such checkpoint, config or file of metrics.
        FileExistsError: If the folder has files.
        CheckpointError: If the checkpoint is no model of this project, has no config, has values
            that are NaN or infinite, or cannot be of this format.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f'{folder} is there and not empty; give a folder to be made')
    table = None if about.metrics is None else read_benchmark_table(about.metrics)
    if table is not None and Path(table.checkpoint).absolute() != Path(source).absolute():
        _warn(f'{about.metrics} is of {shown(table.checkpoint)}; see that it is the same model')
    checkpoint = load_checkpoint(source, trust)  # type: ignore[arg-type]
    check_origin(checkpoint.state_dict, 'mm')
    refuse_not_finite(checkpoint.state_dict)
    architecture: Architecture | None
    if format == 'transformers':
        architecture = _architecture_for_transformers(checkpoint, config)
        write = _transformers_writer(checkpoint, architecture)
    else:
        architecture = _architecture(checkpoint)
        write = _own_writer(checkpoint, config)
    card = _card(checkpoint, architecture, name or str(folder), format, about, table)
    text = card.text()
    write(folder)
    write_text(folder / 'README.md', text)
    return folder


def push(
    source: str | PathLike[str],
    repository: str,
    about: About = NOTHING,
    format: HubFormat = 'pgseg',
    config: str | PathLike[str] | None = None,
    trust: bool = False,
    private: bool | None = None,
) -> str:
    """Upload a checkpoint to the Hugging Face Hub; ``huggingface_hub`` does it.

    Args:
        source: As for :func:`save_for_hub`.
        repository: ``owner/name``, made if need be.
        about: As for :func:`save_for_hub`.
        format: As for :func:`save_for_hub`.
        config: As for :func:`save_for_hub`.
        trust: As for :func:`save_for_hub`.
        private: Whether a repository that is made is private; by default as its owner has it.

    Returns:
        The name that it loads by, ``hf-hub:owner/name``.

    Raises:
        HubError: If the hub does not take it.
        Exception: As :func:`save_for_hub`.
    """
    model = parse_name(repository)
    if model.revision != 'main':
        raise HubError(f'{shown(repository)}: models are pushed to main; leave the revision out')
    name = f'{HUB}{model.repository}'
    import huggingface_hub

    with tempfile.TemporaryDirectory(prefix='pgseg_push_') as temporary:
        folder = save_for_hub(source, Path(temporary) / 'model', about, format, config, trust, name)
        with _upload_failures(model.repository):
            api = huggingface_hub.HfApi()
            api.create_repo(model.repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=model.repository,
                folder_path=folder,
                commit_message='Upload by pgseg-mm',
            )
    return name


def refuse_not_finite(state_dict: Mapping[str, Tensor]) -> None:
    """Refuse weights that nobody could use.

    Args:
        state_dict: Entries by name.

    Raises:
        CheckpointError: If one is NaN or infinite.
    """
    for name, value in state_dict.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(f'{name} has NaN or infinite values')


def _own_writer(checkpoint: Checkpoint, config: str | PathLike[str] | None) -> Any:
    if config is None:
        config_of(checkpoint)  # refuses one that nobody could load it by
        text = flat_config(checkpoint)
    else:
        text = flat_text(read_config_file(config).to_dict())
        meta = checkpoint.extras.get('meta')
        meta = {**(meta if isinstance(meta, Mapping) else {}), 'cfg': text}
        checkpoint = checkpoint._replace(extras={'meta': meta})
        try:
            config_of(checkpoint)
        except CheckpointError as error:
            _warn(f'It can be loaded with its config alone: {error}')
    inert, _ = origin_of(checkpoint)
    if inert:
        names = first_of(list(inert), 2)
        _warn(f'{len(inert)} entries that play no part are left out: {names}')
    return lambda folder: save_own_folder(folder, checkpoint, text)


def _architecture_for_transformers(
    checkpoint: Checkpoint, config: str | PathLike[str] | None
) -> Architecture:
    """What the folder's config.json must tell, of which weights alone do not tell all.

    Raises:
        CheckpointError: If nothing tells it, or if it is a model that no other code base has.
    """
    if config is not None:
        return model_of_config(config)[1]
    architecture, origin = architecture_of(checkpoint)
    if origin == GUESSED_HEADS:
        raise CheckpointError(
            'weights do not tell the number of heads, and it carries no config that would; give '
            'the config of its model'
        )
    return architecture


def _transformers_writer(checkpoint: Checkpoint, architecture: Architecture) -> Any:
    conversion = mm_to_hugging_face(checkpoint.state_dict, architecture)
    report = conversion.report
    if not report.complete:
        names = [*report.missing, *report.unexpected, *report.training_only]
        names += [name for name, _, _ in report.mismatched]
        raise CheckpointError(
            f"{len(names)} entries do not fit transformers' GroupViT: {first_of(names, 3)}"
        )
    for note in report.notes:
        print_log(note, logger='current')
    return lambda folder: _save_transformers(folder, conversion)


def _save_transformers(folder: Path, conversion: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_hugging_face(folder, conversion)


def _card(
    checkpoint: Checkpoint,
    architecture: Architecture | None,
    name: str,
    format: HubFormat,
    about: About,
    table: BenchmarkTable | None,
) -> Card:
    meta = checkpoint.extras.get('meta')
    published = _published(checkpoint)
    return Card(
        name=name,
        library='transformers' if format == 'transformers' else LIBRARY,
        parameters=sum(value.numel() for value in checkpoint.state_dict.values()),
        architecture=architecture,
        classes=_classes(meta if isinstance(meta, Mapping) else {}),
        table=table,
        published=published,
        **_terms(about, published),
    )


def _architecture(checkpoint: Checkpoint) -> Architecture | None:
    """The architecture, as far as it is known and not guessed."""
    meta = checkpoint.extras.get('meta')
    if not isinstance(meta, Mapping) or not ('cfg' in meta or META_KEY in meta):
        return None
    try:
        return architecture_of(checkpoint)[0]
    except CheckpointError:
        return None  # a model with parts of others; its card does without


def _published(checkpoint: Checkpoint) -> PublishedModel | None:
    """The published model that a checkpoint was converted from, and not trained on from."""
    meta = checkpoint.extras.get('meta')
    origin = meta.get(META_KEY) if isinstance(meta, Mapping) else None
    source = origin.get('source') if isinstance(origin, Mapping) else None
    for model in published_models().values():
        if source and source in (model.name, model.hub, model.weights, model.release_file):
            return model
    return None


def _terms(about: About, published: PublishedModel | None) -> dict[str, Any]:
    """Licence, as given or as published, and data."""
    terms: dict[str, Any] = {
        'license': about.license,
        'license_name': about.license_name,
        'license_link': about.license_link,
        'datasets': about.datasets,
    }
    if published is not None and about.license is None:
        terms |= {
            'license': 'other',
            'license_name': published.license,
            'license_link': published.license_url,
        }
    return terms


def _classes(meta: Mapping[str, Any]) -> tuple[str, ...]:
    known = meta.get('dataset_meta')
    names = known.get('classes') if isinstance(known, Mapping) else None
    return tuple(map(str, names)) if isinstance(names, (list, tuple)) else ()


def _warn(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)


@contextmanager
def _upload_failures(repository: str) -> Iterator[None]:
    """Say in one sentence what has failed, and what to do."""
    from huggingface_hub import constants, errors

    where = constants.ENDPOINT
    try:
        yield
    except (OSError, ValueError, errors.HTTPError) as error:
        status = status_of(error)
        if status == 401:
            message = (
                f'{where} does not know who pushes {repository} (401): run hf auth login, or set '
                'HF_TOKEN to a token that may write'
            )
        elif status == 403:
            message = (
                f'{where} does not let you write {repository} (403): give a name of your own, or '
                'set HF_TOKEN to a token that may write there'
            )
        elif status is not None:
            message = f'{where} does not take {repository} ({status}, {first_cause(error)})'
        else:
            message = (
                f'{repository} could not be pushed to {where} ({first_cause(error)}); look at the '
                'network, HF_ENDPOINT and HF_HUB_OFFLINE, and run this again'
            )
        raise HubError(message) from error
