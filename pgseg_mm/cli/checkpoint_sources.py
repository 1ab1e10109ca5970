"""Arguments of tools that take a checkpoint."""

import argparse

from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.locating import check_source

SOURCES = (
    'file, address, hf-hub:owner/name[@revision], folder of Hugging Face, or name of a published '
    'model'
)
"""What a checkpoint may be given as, for the help of a tool."""


def require_checkpoint(parser: argparse.ArgumentParser, source: str) -> None:
    """Have a checkpoint on this disk, or leave with the parser's usage message.

    Addresses are fetched when they are loaded.

    Args:
        parser: Parser that reports the error.
        source: What was given.
    """
    try:
        check_source(source)
    except (CheckpointError, FileNotFoundError) as error:
        parser.error(str(error))
