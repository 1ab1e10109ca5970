"""What a protocol cannot do or mean with a model, and what a user has set in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mmengine.config import Config

from .config_files import override
from .parts import type_name
from .protocols import ProtocolSettings, settings_of

HEAD_SCORES = {'PGSegHead': 'probability', 'DenseCLIPHead': 'cosine'}
"""What the scores of a head are, where that is known; those of ``naming='affinity'`` are others."""


def scores_of(cfg: Config) -> str | None:
    """What the scores of a config's head are, as :attr:`ProtocolSettings.scores`, where known."""
    head = cfg.model.decode_head
    kind = type_name(head)
    if kind == 'PGSegHead' and head.get('naming', 'affinity') == 'affinity':
        return 'affinity'
    return HEAD_SCORES.get(kind)


def notes_on(cfg: Config, settings: ProtocolSettings) -> tuple[str, ...]:
    """What a protocol cannot do, or cannot mean, with the model of a config."""
    found = scores_of(cfg)
    limits = (
        settings.background_threshold,
        settings.background_score,
        settings.prob_threshold,
    )
    if found in (None, settings.scores) or settings.scores is None or limits == (None,) * 3:
        return settings.notes
    plural = {
        'affinity': 'affinities (0 to 1)',
        'probability': 'probabilities by another naming rule',
        'mask': 'masks (0 to 1)',
        'cosine': 'cosines',
    }
    return (
        *settings.notes,
        f'its threshold is for {plural[settings.scores]}, and the scores of this model are '
        f'{plural[found]}; --thresholds NAME=VALUE of zero_shot_table.py, or a protocol of your '
        'own, gives another',
    )


def override_noted(cfg: Config, options: Mapping[str, Any] | None) -> None:
    """Change settings of a config, and have ``applied_protocol`` say what of them is set in a
    protocol's place.

    Args:
        cfg: The config, changed in place.
        options: Settings by their dotted names, as ``--cfg-options`` has them.

    Raises:
        ConfigError: As :func:`.config_files.override`.
    """
    applied = cfg.get('applied_protocol')
    if applied is None or not options:
        override(cfg, options)
        return
    before = asdict(settings_of(cfg, applied['protocol']))
    override(cfg, options)
    for name, value in asdict(settings_of(cfg, applied['protocol'])).items():
        if value != before[name]:
            cfg.applied_protocol[name] = value
