"""Published weights by name, as ``configs/*/metafile.yml`` lists them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pgseg_mm.serialization.locating import HUB

from .hugging_face import WEIGHTS

_PACKAGE = Path(__file__).parents[1]
ROOTS = (_PACKAGE / '.mim', _PACKAGE.parent)
"""Where configs/ lies: in an installed package, and in a checkout."""
METAFILES = 'configs/*/metafile.yml'
HUB_FILE = re.compile(
    r'https://(?:huggingface\.co|hf\.co)/(?P<repo>[^/]+/[^/]+)/(?:resolve|blob)/(?P<revision>[^/]+)/'
    r'(?P<file>[^?]+)(\?.*)?'
)
"""Address of a file of a repository on the Hugging Face Hub, or of its page."""
MAX_NEAR = 3


class PublishedResult(NamedTuple):
    """A figure that the authors of weights have published."""

    task: str
    dataset: str
    metric: str
    value: float
    """In percent."""


class PublishedModel(NamedTuple):
    """Weights that their authors have published."""

    name: str
    config: str
    """Name of the config that they fit, as ``pgseg_mm::FOLDER/FILE.py``."""
    data: tuple[str, ...]
    """What they were trained on."""
    weights: str | None
    """Address, or ``None`` where no program may fetch them."""
    page: str | None
    """Page that links to the files, where no program may fetch them."""
    parameters: int
    megabytes: int | None
    """Size of the file to download, in 10^6 bytes."""
    license: str
    license_url: str | None
    protocol: str
    """How the results came about."""
    results: tuple[PublishedResult, ...]
    release_file: str | None
    """Name of the same weights in the authors' own release."""

    @property
    def hub(self) -> str | None:
        """Name on the Hugging Face Hub, such as ``hf-hub:nvidia/groupvit-gcc-yfcc``."""
        return hub_source(self.weights) if self.weights else None


def hub_source(address: str) -> str | None:
    """``hf-hub:owner/name[@revision]`` of the address of a hub's model, or ``None`` for others.

    It is that of the model's weights, under a name that ``transformers`` gives them; any other file
    of a repository is a file like those of other places.
    """
    match = HUB_FILE.fullmatch(address)
    if match is None or match['file'] not in WEIGHTS:
        return None
    revision = match['revision']
    return HUB + match['repo'] + ('' if revision == 'main' else f'@{revision}')


def file_address(address: str) -> str:
    """Address of a file, where that of its page on the hub may have been given."""
    if HUB_FILE.fullmatch(address):
        return address.replace('/blob/', '/resolve/', 1)
    return address


@lru_cache
def published_models() -> Mapping[str, PublishedModel]:
    """All models with published weights by their names, which are aliases in the metafiles."""
    import yaml  # only who asks for a name pays for it

    found = {}
    for path in _metafiles():
        for entry in yaml.safe_load(path.read_text(encoding='utf-8'))['Models']:
            if 'Alias' in entry:
                found[entry['Alias']] = _model(entry)
    return found


def _metafiles() -> list[Path]:
    """Those of the installed package, or of the repository that it lies in."""
    for folder in ROOTS:
        if paths := sorted(folder.glob(METAFILES)):
            return paths
    return []


def _model(entry: Mapping[str, Any]) -> PublishedModel:
    about = entry.get('Metadata') or {}
    return PublishedModel(
        name=entry['Alias'],
        config=f'pgseg_mm::{entry["Config"].removeprefix("configs/")}',
        data=tuple(about.get('Training Data') or ()),
        weights=entry.get('Weights'),
        page=about.get('Weights Page'),
        parameters=about['Parameters'],
        megabytes=about.get('File Size (MB)'),
        license=about['License'],
        license_url=about.get('License URL'),
        protocol=about['Protocol'],
        results=tuple(
            PublishedResult(result['Task'], result['Dataset'], metric, value)
            for result in entry.get('Results') or ()
            for metric, value in result['Metrics'].items()
        ),
        release_file=about.get('Release File'),
    )


def published_on_hub(repository: str) -> PublishedModel | None:
    """The published model that a repository of the hub holds, if it is one."""
    models = published_models().values()
    return next((model for model in models if model.hub == HUB + repository), None)


def near_names(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: which known ones are near, or which there are."""
    known = list(known)
    near = get_close_matches(name, known, MAX_NEAR, cutoff=0.5)
    if near:
        return f'did you mean {" or ".join(near)}?'
    return f'published models are {", ".join(known)}'
