"""Arguments of tools that take a checkpoint."""

import argparse

from pgseg_mm.serialization.loading import CheckpointError
from pgseg_mm.serialization.locating import check_source

SOURCES = (
    'file, address, hf-hub:owner/name[@revision], folder of Hugging Face, or name of a published '
    'model'
)
"""What a checkpoint may be given as, for the help of a tool."""
NO_CHECKPOINT = 'none'
"""In place of a checkpoint, for the weights that the encoders of a config start with."""
SOURCES_OR_NONE = f"{SOURCES}; {NO_CHECKPOINT} for the weights that the config's model starts with"
"""The same for a tool that may do without."""


def require_checkpoint(parser: argparse.ArgumentParser, source: str, or_none: bool = False) -> None:
    """Have a checkpoint on this disk, or leave with the parser's usage message.

    Addresses are fetched when they are loaded.

    Args:
        parser: Parser that reports the error.
        source: What was given.
        or_none: Whether :data:`NO_CHECKPOINT` will do.
    """
    if or_none and source == NO_CHECKPOINT:
        return
    try:
        check_source(source)
    except (CheckpointError, FileNotFoundError) as error:
        parser.error(str(error))
