"""Where a config that was given differs from the checkpoint's in what no shape of weights tells."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

from mmengine.logging import print_log
from torch import nn

from pgseg_mm.messages import shown
from pgseg_mm.serialization.loading import Checkpoint, CheckpointError

from .architecture import CLUSTERING, architecture_of_model
from .mm_checkpoint import META_KEY, architecture_of, model_of_text

REGIONS, MEANS = 'regions', 'the mean group'


def warn_of_other_settings(
    model: nn.Module, checkpoint: Checkpoint, path: str | PathLike[str]
) -> None:
    """Log a warning if heads, ``assign_scale``, clustering, naming rule or contrast differ.

    What the given config says is taken all the same. A checkpoint without a config, and one of
    another kind of model, say nothing.

    Args:
        model: The model of the given config.
        checkpoint: The checkpoint, with its ``meta``.
        path: Where it is from, for the message.
    """
    meta = checkpoint.extras.get('meta')
    if not isinstance(meta, Mapping) or not ('cfg' in meta or META_KEY in meta):
        return
    differences = [*_of_encoder(model, checkpoint), *_of_head(model, meta.get('cfg'))]
    if differences:
        print_log(
            f'{path} is of a model with {" and ".join(differences)}, as the config says that was '
            'given; that is taken',
            logger='current',
            level=logging.WARNING,
        )


def _of_encoder(model: nn.Module, checkpoint: Checkpoint) -> list[str]:
    modules = dict(model.named_modules())
    first: Any = modules.get('backbone.stages.0.grouping.assign')
    backbone = _vit_of(checkpoint.extras['meta'].get('cfg'))
    if first is not None and backbone is not None:
        told_hard = bool(backbone.get('hard_assign', True))
        if first.hard != told_hard:
            return [f'hard_assign {told_hard} instead of {first.hard}']
        clustering = _of_prototypes(modules.get('backbone.stages.0.prototypes'), backbone)
        if clustering:
            return clustering
    try:
        told, _ = architecture_of(checkpoint)
        own = architecture_of_model(model, 'the config')
    except CheckpointError:
        return []  # of another kind than those that are converted
    told = replace(own, num_heads=told.num_heads, assign_scale=told.assign_scale)
    return told.differences(own)


def _vit_of(text: Any) -> Mapping[str, Any] | None:
    """A config's backbone; ``None`` if it is no PGSegViT."""
    backbone = model_of_text(text).get('backbone')
    if not isinstance(backbone, Mapping) or not str(backbone.get('type')).endswith('PGSegViT'):
        return None
    return backbone


def _of_prototypes(prototypes: Any, backbone: Mapping[str, Any]) -> list[str]:
    """Settings of the clustering, where both have prototypes."""
    told = backbone.get('prototypes', {})
    if prototypes is None or not isinstance(told, Mapping):
        return []
    pairs = {k: (told.get(k, v), getattr(prototypes, k, v)) for k, v in CLUSTERING.items()}
    return [
        f'{name} {shown(theirs)} of the prototypes instead of {ours}'
        for name, (theirs, ours) in pairs.items()
        if theirs != ours
    ]


def _of_head(model: nn.Module, text: Any) -> list[str]:
    """How groups are named, and what was compared with captions and so is an image's embedding."""
    head: Any = getattr(model, 'decode_head', None)
    known = model_of_text(text).get('decode_head')
    if (
        not isinstance(known, Mapping)
        or not str(known.get('type')).endswith('PGSegHead')
        or not hasattr(head, 'contrasts_regions')
    ):
        return []
    contrast = known.get('loss_contrastive')
    kind = contrast.get('type') if isinstance(contrast, Mapping) else None
    theirs = {'naming': shown(known.get('naming', 'affinity'))}
    ours = {'naming': head.naming}
    if head.naming == 'affinity':  # the rule that looks at the image's embedding
        theirs['captions compared with'] = REGIONS if kind == 'RegionTextContrast' else MEANS
        ours['captions compared with'] = REGIONS if head.contrasts_regions else MEANS
    return [
        f'{name} {theirs[name]} instead of {ours[name]}'
        for name in ours
        if theirs[name] != ours[name]
    ]
