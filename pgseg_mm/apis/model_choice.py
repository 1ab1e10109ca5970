"""Which model a command line asks for, where it need not name a config, or need not name any."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config

from pgseg_mm.checkpoints.carried_config import config_of
from pgseg_mm.cli.checkpoint_sources import SOURCES_OR_NONE, require_checkpoint
from pgseg_mm.cli.config_files import ConfigError, override
from pgseg_mm.cli.run_configs import read_model_config
from pgseg_mm.serialization.loading import CheckpointError

DEFAULT_MODEL = 'groupvit-gcc-yfcc'
"""Name of the published model that is taken where none is given."""
CONFIG = 'config file, or name of an installed one'


class _ModelWords(argparse.Action):
    """One word is a checkpoint, two are a config and a checkpoint."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        words = list(values or ())
        if len(words) > 2:
            parser.error(
                f'give a checkpoint, or a config and a checkpoint; got {len(words)} words: '
                f'{" ".join(map(str, words))}'
            )
        namespace.config = words[0] if len(words) == 2 else None
        namespace.checkpoint = words[-1]


def add_model_choice(parser: argparse.ArgumentParser, named: bool) -> None:
    """Add the arguments for config and checkpoint.

    Args:
        parser: Parser to extend.
        named: Whether they are options, both of which may be left out; otherwise they are
            positional arguments, and the config may be left out.
    """
    if named:
        parser.add_argument(
            '--checkpoint', default=DEFAULT_MODEL, help=f'{SOURCES_OR_NONE} (%(default)s)'
        )
        parser.add_argument('--config', help=f"{CONFIG}; the checkpoint's own by default")
    else:
        parser.add_argument(
            'model',
            nargs='+',
            action=_ModelWords,
            metavar='MODEL',  # argparse cannot print a tuple's usage here
            help=f'the checkpoint, or a config and the checkpoint. Config: {CONFIG}; the '
            f"checkpoint's own by default. Checkpoint: {SOURCES_OR_NONE}",
        )


def add_pamr(parser: argparse.ArgumentParser) -> None:
    """Add ``--pamr``, whether scores are refined by the image.

    Args:
        parser: Parser to extend.
    """
    parser.add_argument(
        '--pamr',
        action=argparse.BooleanOptionalAction,
        help='let segments follow the edges of the image; as the config says by default',
    )


def read_chosen_config(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Config:
    """Config of what was chosen: the one that was given, or the one that the checkpoint carries.

    Leaves with the parser's usage message where there is none, or no checkpoint.

    Args:
        parser: Parser that reports the error.
        args: Parsed arguments of :func:`add_model_choice` and
            :func:`pgseg_mm.cli.arguments.add_model_options`.

    Returns:
        The config with the settings that were overridden.
    """
    if args.config is not None:
        return read_model_config(parser, args, or_none=True)
    require_checkpoint(parser, args.checkpoint)
    try:
        cfg = config_of(args.checkpoint, args.trust)
        override(cfg, args.cfg_options)
    except (CheckpointError, ConfigError, OSError) as error:
        parser.error(str(error))
    return cfg
