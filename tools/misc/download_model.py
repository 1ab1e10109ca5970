"""Download the weights of a model, so that later runs need no network."""

import argparse
from collections.abc import Sequence

from pgseg_mm.checkpoints import locate
from pgseg_mm.serialization.loading import CheckpointError


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Describe the command line.

    Args:
        command: Name of the command that this is.
    """
    parser = argparse.ArgumentParser(prog=command, description=__doc__)
    parser.add_argument(
        'model',
        help='name of a published model, as pgseg models lists them, or '
        'hf-hub:owner/name[@revision]',
    )
    return parser


def main(argv: Sequence[str] | None = None, command: str | None = None) -> None:
    """Download and convert a model, unless that has been done, and print the checkpoint's path.

    Args:
        argv: Arguments; those of the process by default.
        command: Name of the command that this is.
    """
    parser = build_parser(command)
    args = parser.parse_args(argv)
    try:
        path = locate(args.model)
        if not path.is_file():
            raise FileNotFoundError(f'checkpoint file not found: {args.model}')
    except (CheckpointError, OSError) as error:
        parser.exit(2, f'{parser.prog}: error: {error}\n')
    print(path)


if __name__ == '__main__':
    main()
