"""The ``--protocol`` of tools that go over a labelled test set."""

from __future__ import annotations

import argparse

from mmengine.config import Config

from .config_files import ConfigError
from .protocol_notes import notes_on
from .protocols import apply_protocol, as_protocol, protocol_names, read_protocol


def add_protocol(parser: argparse.ArgumentParser) -> None:
    """Add ``--protocol``.

    Args:
        parser: Parser to extend.
    """
    parser.add_argument(
        '--protocol',
        metavar='NAME',
        help='how to evaluate, in place of what the config says of sizes, windows, words and '
        f'thresholds: {", ".join(protocol_names())}, or a config file with protocol=dict(...) '
        "(default: the config's protocol, if it has one)",
    )


def set_protocol(cfg: Config, name: str | None) -> None:
    """Apply a protocol by its name, or that of the config.

    Args:
        cfg: The config, changed in place.
        name: What ``--protocol`` says.

    Raises:
        ConfigError: If there is none of that name, or it cannot be applied.
    """
    if name is None and cfg.get('protocol') is None:
        return
    protocol = as_protocol(cfg.protocol) if name is None else read_protocol(name)
    if not cfg.get('benchmark'):
        raise ConfigError(
            f'the {protocol.name} protocol needs to know the benchmark: '
            "benchmark=dict(name='voc21') in the config"
        )
    settings = protocol.settings(cfg.benchmark.name)
    apply_protocol(cfg, settings)
    for note in notes_on(cfg, settings):
        print(f'{protocol.name} on {cfg.benchmark.name}: {note}')
