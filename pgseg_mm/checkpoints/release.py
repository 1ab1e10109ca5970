"""Conversion from and to the state dicts of PGSeg's and GroupViT's releases."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pgseg_mm.serialization.loading import CheckpointError

from ..models.layers import ProjectionMLP
from .architecture import Architecture, Shape, infer_architecture, model_shapes, shapes_of
from .conversion import Conversion, Link, join, link_all, split
from .names import release_name, release_names

INERT = re.compile(r'img_encoder\.mapping_text\.|text_encoder\.Atten\.mu$')
"""Entries of PGSeg's release that play no part in its model, whatever its options."""
_CONVOLUTION = re.compile(r'\.linear_(hidden\.0|out)\.weight$')
_TEXT_PROTOTYPES = 'decode_head.text_prototypes.'
_TEXT_MU = f'{_TEXT_PROTOTYPES}prototypes.mu'
_TEXT_MU_SHAPE = (1, 8, 1)  # a constant of the release


def release_links(shapes: Mapping[str, Shape]) -> list[Link]:
    """Links of our entries to the release's, whose projections are 1 x 1 convolutions."""
    names = release_names(shapes)
    return link_all(
        shapes,
        lambda name: (names[name],),
        lambda name, shape: (*shape, 1) if _CONVOLUTION.search(name) else shape,
    )


def release_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Names and shapes of the release's state dict, with the entries that play no part."""
    shapes = {
        link.others[0]: link.other_shape for link in release_links(model_shapes(architecture))
    }
    fresh = _fresh_inert(architecture)
    return shapes | {name: tuple(value.shape) for name, value in fresh.items()}


def release_to_mm(
    state_dict: Mapping[str, Tensor],
    num_heads: Sequence[int] | None = None,
    model: nn.Module | None = None,
    architecture: Architecture | None = None,
) -> Conversion:
    """Convert a state dict of PGSeg's or GroupViT's release.

    Args:
        state_dict: Entries by the release's names.
        num_heads: Attention heads of each stage, if they are known; width / 64 by default.
        model: Our model that it must fit; by default it is told from the shapes.
        architecture: The architecture, if it is known.

    Raises:
        CheckpointError: If it is the state dict of something else.
    """
    check_origin(state_dict, 'release')
    if architecture is None:
        architecture = infer_architecture(
            lambda name: _shape(state_dict, release_name(name)), num_heads
        )
    shapes = model_shapes(architecture) if model is None else shapes_of(model)
    notes = []
    if shapes.get(_TEXT_MU, _TEXT_MU_SHAPE) != _TEXT_MU_SHAPE:
        # the paper's text prototypes are others than those of the release
        shapes = {k: v for k, v in shapes.items() if not k.startswith(_TEXT_PROTOTYPES)}
        notes.append('the text prototypes of T-NPR are not in any release: they start untrained')
    links = release_links(shapes)
    result, inert, report = join(state_dict, links, lambda name: bool(INERT.match(name)))
    report.notes += notes
    return Conversion(result, report, architecture, inert)


def mm_to_release(
    state_dict: Mapping[str, Tensor],
    architecture: Architecture | None = None,
    inert: Mapping[str, Tensor] | None = None,
    order: Sequence[str] = (),
) -> Conversion:
    """Convert our state dict into that of PGSeg's release, or GroupViT's without prototypes.

    Args:
        state_dict: Entries by our names.
        architecture: The architecture, if it is known; heads do not matter here.
        inert: Entries of the release that play no part. By default those that the release expects
            are made afresh, the same ones every time.
        order: Names in the order that they are to have, as far as they occur.

    Raises:
        CheckpointError: If it is the state dict of something else.
    """
    check_origin(state_dict, 'mm')
    if architecture is None:
        architecture = infer_architecture(lambda name: _shape(state_dict, name))
    shapes = dict(model_shapes(architecture))
    if _shape(state_dict, _TEXT_MU) == _TEXT_MU_SHAPE:
        shapes[_TEXT_MU] = _TEXT_MU_SHAPE
    folded = fold_assign_scale(state_dict, architecture)
    result, report = split(
        folded, release_links(shapes), lambda name: name.startswith(_TEXT_PROTOTYPES)
    )
    if architecture.assign_scale != 1:
        report.notes.append(folded_note(architecture))
    if inert is None:
        inert = _fresh_inert(architecture)
        report.added = [name for name in inert if name not in result]
    else:
        report.inert = list(inert)
    result = {**inert, **result}
    position = {name: i for i, name in enumerate(order)}
    names = sorted(result, key=lambda name: position.get(name, len(position)))
    return Conversion({k: result[k] for k in names}, report, architecture, dict(inert))


def fold_assign_scale(
    state_dict: Mapping[str, Tensor], architecture: Architecture
) -> dict[str, Tensor]:
    """Multiply the assignment's query projection by ``assign_scale``, for code without it."""
    scale = architecture.assign_scale
    return {
        name: value * scale if scale != 1 and '.grouping.assign.q_proj.' in name else value
        for name, value in state_dict.items()
    }


def folded_note(architecture: Architecture) -> str:
    """What a report says of :func:`fold_assign_scale`."""
    return (
        f'assign_scale={architecture.assign_scale:g} of this model is unknown there and was '
        "multiplied into the assignments' q_proj"
    )


def _fresh_inert(architecture: Architecture) -> dict[str, Tensor]:
    """The release's entries that play no part, always the same ones."""
    if not architecture.prototypes:
        return {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # centres of the last grouping stage to the text encoder's width
        mapping = ProjectionMLP(
            architecture.embed_dims[-2], architecture.text_dims, architecture.prototype_channels
        )
        mu = torch.randn(_TEXT_MU_SHAPE)
    shapes = {f'backbone.mapping_x.{name}': s for name, s in shapes_of(mapping).items()}
    state = {f'backbone.mapping_x.{name}': v for name, v in mapping.state_dict().items()}
    converted, _ = split(state, release_links(shapes), lambda name: False)
    inert = {name.replace('mapping_x', 'mapping_text'): v for name, v in converted.items()}
    return inert | {'text_encoder.Atten.mu': mu / mu.norm(dim=1, keepdim=True)}


def _shape(state_dict: Mapping[str, Tensor], name: str) -> Shape | None:
    return tuple(state_dict[name].shape) if name in state_dict else None


_ORIGINS = {
    'release': (
        'img_encoder.patch_embed.',
        "PGSeg's or GroupViT's release",
        'use pgseg2mm.py or groupvit2mm.py',
    ),
    'hugging_face': (
        'vision_model.',
        "Hugging Face's GroupViT",
        'use hf_groupvit2mm.py',
    ),
    'mm': ('backbone.stages.', 'this project', 'use mm2pgseg.py or mm2hf_groupvit.py'),
}


def origin_of_names(names: Collection[str]) -> str:
    """Which code base a state dict is of.

    Args:
        names: Names of its entries.

    Returns:
        ``'release'``, ``'hugging_face'`` or ``'mm'``.

    Raises:
        CheckpointError: If it is of none of them.
    """
    for origin, (prefix, _, _) in _ORIGINS.items():
        if any(name.startswith(prefix) for name in names):
            return origin
    known = ', '.join(title for _, title, _ in _ORIGINS.values())
    some = ', '.join(list(names)[:3])
    raise CheckpointError(
        f'this is no checkpoint of {known}: its {len(names)} entries are {some} ...'
    )


def has_prototypes(names: Collection[str]) -> bool:
    """Whether a state dict of a release, by its names, is PGSeg's and not GroupViT's."""
    return any('.downsample_spatial.' in name for name in names)


def check_origin(state_dict: Mapping[str, Any], expected: str) -> None:
    """Refuse the state dict of something else than expected, and say what it seems to be.

    Args:
        state_dict: Entries by name.
        expected: ``'release'``, ``'hugging_face'`` or ``'mm'``.

    Raises:
        CheckpointError: If no name is as expected.
    """
    prefix, title, _ = _ORIGINS[expected]
    if any(name.startswith(prefix) for name in state_dict):
        return
    for other, (other_prefix, other_title, advice) in _ORIGINS.items():
        if other != expected and any(name.startswith(other_prefix) for name in state_dict):
            raise CheckpointError(
                f'this is a checkpoint of {other_title}, expected one of {title}; {advice}'
            )
    some = ', '.join(list(state_dict)[:3])
    raise CheckpointError(
        f'this is no checkpoint of {title}: its {len(state_dict)} entries are {some} ..., expected '
        f'names such as {prefix}...'
    )
