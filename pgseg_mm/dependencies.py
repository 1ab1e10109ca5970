"""What pgseg_mm needs from its surroundings, checked before anything heavy is imported."""

from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from typing import NamedTuple

from packaging.version import Version


class Requirement(NamedTuple):
    """An importable module and the distributions that may provide it.

    Args:
        module: Import name.
        distributions: Least acceptable version of each distribution that provides ``module``.
    """

    module: str
    distributions: dict[str, str]


REQUIREMENTS = (
    Requirement('torch', {'torch': '2.5'}),
    Requirement('mmengine', {'onedl-mmengine': '0.10.12', 'mmengine': '0.10.7'}),
    Requirement('mmcv', {'onedl-mmcv': '2.3.6', 'mmcv': '2.1.0'}),
    Requirement('mmseg', {'onedl-mmsegmentation': '1.4.2', 'mmsegmentation': '1.2.2'}),
    Requirement('mmpretrain', {'onedl-mmpretrain': '1.3.6', 'mmpretrain': '1.2.0'}),
    Requirement('open_clip', {'open_clip_torch': '2.32'}),
    Requirement('ftfy', {'ftfy': '6.1'}),
    Requirement('regex', {'regex': '2022.1.18'}),
    Requirement('scipy', {'scipy': '1.10'}),
)


def is_importable(module: str) -> bool:
    """Whether a top-level module can be found; it is not imported."""
    return find_spec(module) is not None


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def check_dependencies(
    find_module: Callable[[str], bool] = is_importable,
    find_version: Callable[[str], str | None] = installed_version,
) -> None:
    """Refuse to go on when a needed module is missing or too old.

    A module that can be imported though no known distribution is installed, such as a source
    checkout on the Python path, is taken as it is: its version cannot be told without importing it.

    Args:
        find_module: Tells whether a module can be imported.
        find_version: Gives the installed version of a distribution, or None.

    Raises:
        ImportError: Names every problem at once, and the command that solves them.
    """
    found = {
        distribution: version
        for requirement in REQUIREMENTS
        for distribution in requirement.distributions
        if (version := find_version(distribution)) is not None
    }
    problems = [
        problem
        for requirement in REQUIREMENTS
        if (problem := _problem(requirement, find_module(requirement.module), found))
    ]
    if problems:
        raise ImportError(
            f'pgseg_mm cannot be imported because {", and ".join(problems)}; '
            f'to install what is needed run: pip install "pgseg-mm[{_matching_extra(found)}]"'
        )


def _problem(requirement: Requirement, importable: bool, found: dict[str, str]) -> str | None:
    needed = ' or '.join(f'{name}>={least}' for name, least in requirement.distributions.items())
    if not importable:
        return f'{requirement.module} is not installed (needed: {needed})'
    candidates = {name: found[name] for name in requirement.distributions if name in found}
    if not candidates or any(
        Version(version) >= Version(requirement.distributions[name])
        for name, version in candidates.items()
    ):
        return None
    present = ', '.join(f'{name} {version}' for name, version in candidates.items())
    return f'{requirement.module} is too old (found: {present}; needed: {needed})'


def _matching_extra(found: dict[str, str]) -> str:
    """The extra that goes with what is installed: the two stacks overwrite each other's files."""
    openmmlab = {'mmengine', 'mmcv', 'mmsegmentation', 'mmpretrain'}
    has_onedl = any(name.startswith('onedl-') for name in found)
    return 'openmmlab' if openmmlab & found.keys() and not has_onedl else 'onedl'
