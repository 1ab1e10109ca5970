"""Which model a command line asks for, where it need not name one."""

import argparse

from pgseg_mm.serialization.loading import CheckpointError

DEFAULT_MODEL = 'groupvit-gcc-yfcc'
"""Name of the published model that is taken where none is given."""


def add_model_choice(parser: argparse.ArgumentParser, named: bool) -> None:
    """Add the arguments for config and checkpoint.

    Args:
        parser: Parser to extend.
        named: Whether they are options, both of which may be left out; otherwise they are two
            positional arguments.
    """
    config, checkpoint = 'config file, or name of an installed one', 'checkpoint'
    if named:
        parser.add_argument(
            '--checkpoint',
            default=DEFAULT_MODEL,
            help='checkpoint: a file, or what pgseg models lists (%(default)s)',
        )
        parser.add_argument(
            '--config', help=f"{config}; a published model's own by default"
        )  # fmt: skip
    else:
        parser.add_argument('config', help=config)
        parser.add_argument('checkpoint', help=checkpoint)


def choose_config(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Give ``args.config`` a value where it was left out: the config that the checkpoint fits.

    Leaves with the parser's usage message where none is known.

    Args:
        parser: Parser that reports the error.
        args: Parsed arguments of :func:`add_model_choice`.
    """
    if args.config is not None:
        return
    try:
        args.config = config_of(args.checkpoint)
    except CheckpointError as error:
        parser.error(str(error))


def config_of(checkpoint: str) -> str:
    """Config that a checkpoint fits.

    Args:
        checkpoint: Name of a published model.

    Returns:
        Name of a config, as ``pgseg_mm::FOLDER/FILE.py``.

    Raises:
        CheckpointError: If it is not known.
    """
    from pgseg_mm.checkpoints.published import published_models

    models = published_models()
    if checkpoint not in models:
        raise CheckpointError(
            f'which config {checkpoint} fits is not known; give it as --config, or one of the '
            f'published models as --checkpoint: {", ".join(models)}'
        )
    return models[checkpoint].config
