"""The ``--naming`` of tools that evaluate: by which rule groups get their classes."""

from __future__ import annotations

import argparse

from mmengine.config import Config

from pgseg_mm.cli.config_files import ConfigError
from pgseg_mm.models.decode_heads.group_naming import NAMING_RULES

DEFAULT = NAMING_RULES[0]
"""That of a head whose config names none."""


def add_naming(parser: argparse.ArgumentParser) -> None:
    """Add ``--naming``.

    Args:
        parser: Parser to extend.
    """
    parser.add_argument(
        '--naming',
        choices=NAMING_RULES,
        help="how groups get their classes; the config's rule by default",
    )


def naming_of(cfg: Config) -> str | None:
    """The rule of a config's head; ``None`` for one that names no groups."""
    head = cfg.model.get('decode_head') or {}
    if 'naming' in head:
        return str(head['naming'])
    return DEFAULT if str(head.get('type', '')).endswith('PGSegHead') else None


def set_naming_rule(cfg: Config, naming: str | None) -> bool:
    """Have a config's head name its groups by a rule.

    Args:
        cfg: The config, changed in place.
        naming: What ``--naming`` says; ``None`` leaves the config as it is.

    Returns:
        Whether this is another rule, so that a background threshold of the config was found for
        scores of another kind.

    Raises:
        ConfigError: If there is no model, or its head names no groups.
    """
    if naming is None:
        return False
    if not cfg.get('model'):
        raise ConfigError('--naming is for the head of a model, and the config has no model')
    before = naming_of(cfg)
    if before is None:
        kind = (cfg.model.get('decode_head') or {}).get('type')
        raise ConfigError(f'--naming is for heads that name groups, and {kind} is none')
    cfg.model.decode_head.naming = naming
    return before != naming
