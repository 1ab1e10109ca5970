from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .architecture import Architecture, Shape


class Link(NamedTuple):
    """An entry of our state dict and what it is elsewhere."""

    name: str
    """Our name."""
    shape: Shape
    """Our shape."""
    others: tuple[str, ...]
    """Names elsewhere; several entries are ours when joined along the first axis."""
    other_shape: Shape
    """Shape of each of them."""


@dataclass
class Report:
    """What became of the entries of a checkpoint, under the names that they have in it."""

    used: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    """Name, shape found, shape expected."""
    inert: list[str] = field(default_factory=list)
    """Known entries, by the release's names, that play no part; they travel in the meta."""
    training_only: list[str] = field(default_factory=list)
    """Known entries that serve training here and have no place in the other code base."""
    added: list[str] = field(default_factory=list)
    """Entries of the result, by its names, that play no part and were made afresh."""
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every entry found its place and every place was filled."""
        return not (self.missing or self.unexpected or self.mismatched or self.training_only)

    def __str__(self) -> str:
        mismatched = [
            f'{name}: found {_text(found)}, expected {_text(expected)}'
            for name, found, expected in self.mismatched
        ]
        sections = [
            ('used', self.used),
            ('no part in the model, kept in meta', self.inert),
            ('made afresh, no part in the model', self.added),
            ('missing', self.missing),
            ('unexpected', self.unexpected),
            ('of another shape', mismatched),
            ('for training here only, no place there', self.training_only),
        ]
        lines = []
        for title, names in sections:
            lines += [f'{title}: {len(names)}', *(f'  {name}' for name in names)]
        return '\n'.join([*lines, *(f'note: {note}' for note in self.notes)])


def _text(shape: Shape) -> str:
    return 'x'.join(map(str, shape)) or 'a scalar'


class Conversion(NamedTuple):
    """A converted state dict."""

    state_dict: dict[str, Tensor]
    report: Report
    architecture: Architecture
    inert: dict[str, Tensor]
    """Entries that play no part in our model."""


def link_all(
    shapes: Mapping[str, Shape],
    names: Callable[[str], tuple[str, ...]],
    other_shape: Callable[[str, Shape], Shape],
) -> list[Link]:
    """Links of all entries of a model.

    Args:
        shapes: Names and shapes of our state dict.
        names: Names elsewhere of one of ours.
        other_shape: Shape elsewhere, of a name there and the entry's share of our shape.
    """
    links = []
    for name, shape in shapes.items():
        others = names(name)
        share = (shape[0] // len(others), *shape[1:]) if len(others) > 1 else shape
        links.append(Link(name, shape, others, other_shape(others[0], share)))
    return links


def join(
    source: Mapping[str, Tensor], links: Iterable[Link], is_inert: Callable[[str], bool]
) -> tuple[dict[str, Tensor], dict[str, Tensor], Report]:
    """Convert a state dict from elsewhere into ours.

    Returns:
        Our state dict, the inert entries and the report.
    """
    report, result = Report(), {}
    expected: set[str] = set()
    for link in links:
        expected.update(link.others)
        if _check(source, link.others, link.other_shape, report):
            parts = [source[other] for other in link.others]
            joined = parts[0] if len(parts) == 1 else torch.cat(parts)
            result[link.name] = joined.reshape(link.shape)
    inert = {k: v for k, v in source.items() if k not in expected and is_inert(k)}
    report.inert = list(inert)
    report.unexpected = [k for k in source if k not in expected and k not in inert]
    return result, inert, report


def split(
    source: Mapping[str, Tensor], links: Sequence[Link], is_training_only: Callable[[str], bool]
) -> tuple[dict[str, Tensor], Report]:
    """Convert our state dict into one from elsewhere; see :func:`join`."""
    report, result = Report(), {}
    for link in links:
        if _check(source, (link.name,), link.shape, report):
            value = source[link.name]
            parts = value.chunk(len(link.others)) if len(link.others) > 1 else (value,)
            for other, part in zip(link.others, parts, strict=True):
                result[other] = part.reshape(link.other_shape)
    expected = {link.name for link in links}
    rest = [name for name in source if name not in expected]
    report.training_only = [name for name in rest if is_training_only(name)]
    report.unexpected = [name for name in rest if not is_training_only(name)]
    return result, report


def _check(
    source: Mapping[str, Tensor], names: tuple[str, ...], shape: Shape, report: Report
) -> bool:
    """Whether all entries are there in the right shape; notes what became of each."""
    fits = True
    for name in names:
        if name not in source:
            report.missing.append(name)
        elif tuple(source[name].shape) != shape:
            report.mismatched.append((name, tuple(source[name].shape), shape))
        else:
            continue
        fits = False
    if fits:
        report.used += names
    return fits
